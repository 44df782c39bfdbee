"""The demo: its own English text, a small teacher, two students, compiled and compared."""

from tbt_compile.demo.rows import DemoRow
from tbt_compile.demo.run import DemoResult, DemoSettings, run
from tbt_compile.demo.task import DemoTask, build_task

__all__ = ["DemoResult", "DemoRow", "DemoSettings", "DemoTask", "build_task", "run"]
