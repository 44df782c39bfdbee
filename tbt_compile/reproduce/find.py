"""Tables and methods by name: the paper's, and those of this project."""

from __future__ import annotations

from tbt_compile.reproduce.defaults import DEFAULTS, VARIANTS
from tbt_compile.reproduce.paper import PaperTable, paper_table
from tbt_compile.reproduce.recipes import CHANGES, RECIPES
from tbt_compile.training.methods import Method, get_method

_OTHER_TABLES = {table.name: table for table in (DEFAULTS, RECIPES)}
_OTHER_METHODS = {**VARIANTS, **CHANGES}


def find_table(name: str) -> PaperTable:
    """The paper's table called `name`, `DEFAULTS` or `RECIPES`.

    Raises:
        ReproduceError: the table is unknown.
    """
    return _OTHER_TABLES[name] if name in _OTHER_TABLES else paper_table(name)


def find_method(name: str) -> Method:
    """The method called `name`: a row of `DEFAULTS` or `RECIPES`, or one of the paper's tables.

    Raises:
        MethodError: the method is unknown.
    """
    return _OTHER_METHODS[name] if name in _OTHER_METHODS else get_method(name)
