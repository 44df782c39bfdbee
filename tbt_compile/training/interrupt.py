"""Ctrl-C during a training run: the step is finished and saved, then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from tbt_compile.progress import Progress
from tbt_compile.training import processes


class SaveOnInterrupt(TrainerCallback):
    """Saves a checkpoint at the end of the step in which the first SIGINT came, and stops the run there.

    Settings and schedule do not know of it: a resumed run ends with the weights of one that was not stopped.

    Args:
        report: told that the step is being finished; None: nothing is reported.
    """

    def __init__(self, report: Progress | None) -> None:
        self.report, self.interrupted, self.share = report, False, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Ask for a checkpoint if the run was interrupted and can stop here.

        Args:
            args, state, control: of the trainer.
        """
        self.share = state.global_step / state.max_steps
        if self._stops_at(args, state):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Stop, now that the step is on disk.

        Args:
            args, state: of the trainer.
            control: unused.

        Raises:
            KeyboardInterrupt: the run was interrupted and can stop here.
        """
        if self._stops_at(args, state):
            raise KeyboardInterrupt

    def _stops_at(self, args: Any, state: Any) -> bool:
        # The mean loss of the last logged window goes into the record, so that window is not split.
        last = state.max_steps // args.logging_steps * args.logging_steps
        split = last - args.logging_steps < state.global_step < last
        return self.interrupted and not split and state.global_step < state.max_steps

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
