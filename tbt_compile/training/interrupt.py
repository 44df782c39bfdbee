"""Ctrl-C during a training run: the step is finished and saved, then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from tbt_compile.progress import Progress
from tbt_compile.training import processes
from tbt_compile.training.saved_stop import SavedStop


class SaveOnInterrupt(SavedStop):
    """Stops a run at the end of the step in which the first SIGINT came.

    Args:
        report: told that the step is being finished; None: nothing is reported.
    """

    def __init__(self, report: Progress | None) -> None:
        self.report, self.interrupted, self.share = report, False, 0.0

    def stops(self, args: Any, state: Any) -> bool:
        """Whether the run was interrupted, and this step does not split what is recorded.

        Args:
            args, state: of the trainer.
        """
        self.share = state.global_step / state.max_steps
        # The mean loss of the last logged window goes into the record, so that window is not split.
        last = state.max_steps // args.logging_steps * args.logging_steps
        return self.interrupted and not last - args.logging_steps < state.global_step < last

    def stop(self, state: Any) -> NoReturn:  # noqa: ARG002
        """End the run as Ctrl-C does.

        Args:
            state: unused.

        Raises:
            KeyboardInterrupt: always.
        """
        raise KeyboardInterrupt

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context the first SIGINT waits for the end of the step, the second stops at once.

        Only in place of Python's own handler, in the main thread, with one process: processes that stop at
        different steps would wait for each other for ever.

        Raises:
            KeyboardInterrupt: the run was interrupted, and had no step left.
        """
        usual = signal.getsignal(signal.SIGINT)
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main or usual is not signal.default_int_handler or processes.count() > 1:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)
        if self.interrupted:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: Any) -> None:  # noqa: ARG002
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.report is not None:
            self.report("saving after this step; Ctrl-C again stops at once", self.share)
