"""The `tbt` command line: `app.py` assembles it from the commands, one file each."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the lazy import keeps `import tbt_compile.cli` cheap."""
    from tbt_compile.cli.app import main as run

    run()
