"""Lists the packages: two top-level folders are installed inside `tbt_compile` (see pyproject.toml)."""

from setuptools import find_packages, setup

FOLDERS = {"tbt_compile": "tbt_compile", "tbt_compile.passes": "passes", "tbt_compile.codegen": "codegen"}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for root, folder in FOLDERS.items()
        for name in (root, *(f"{root}.{sub}" for sub in find_packages(folder)))
    ],
)
