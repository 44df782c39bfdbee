"""The paper's tables and figures, and a table of TBT's defaults, made on any data by one call."""

from tbt_compile.reproduce.defaults import find_table
from tbt_compile.reproduce.experiment import Experiment
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
