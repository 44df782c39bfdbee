"""The demo: generated news items, a small teacher, and two students, compiled and compared."""

from tbt_compile.demo.rows import DemoRow
from tbt_compile.demo.run import DemoResult, DemoSettings, run
from tbt_compile.demo.task import DemoTask, build_task

__all__ = ["DemoResult", "DemoRow", "DemoSettings", "DemoTask", "build_task", "run"]
