"""Reproduction of the paper's tables and figure 2, and an ablation of TBT's defaults, on any data."""

from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.find import find_table
from tbt_compile.reproduce.paper import TABLES, paper_table
from tbt_compile.reproduce.plan import PlannedRow, plan_rows
from tbt_compile.reproduce.run import Report, reproduce

__all__ = [
    "TABLES",
    "Experiment",
    "PlannedRow",
    "Report",
    "find_table",
    "paper_table",
    "plan_rows",
    "reproduce",
]
