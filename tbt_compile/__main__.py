"""`python -m tbt_compile` runs the `tbt` command, for launchers such as torchrun that start modules."""

from tbt_compile.cli import main

if __name__ == "__main__":
    main()
