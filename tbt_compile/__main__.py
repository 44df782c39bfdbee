"""`python -m tbt_compile` is the `tbt` command, for launchers that start a module in several processes."""

from tbt_compile.cli import main

if __name__ == "__main__":
    main()
