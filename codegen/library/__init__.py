"""From lowered units to a shared library: build (import, flatten, compile) and link."""
