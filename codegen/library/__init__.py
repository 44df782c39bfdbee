"""From a Relax module to a shared library: flatten, build, link."""
