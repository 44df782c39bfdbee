"""The `tbt` command. `app.py` puts it together; every other file is one command."""

from __future__ import annotations


def main() -> None:
    """Run the command line (imported on use, so that `import tbt_compile.cli` stays cheap)."""
    from tbt_compile.cli.app import main as run

    run()
