"""A limit on the time of a training run: it saves a checkpoint when the time is over, and stops."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from tbt_compile.training.saved_stop import SavedStop
from tbt_compile.training.settings import TrainingError


class OutOfTimeError(TrainingError):
    """A run was stopped by its `TimeLimit`; called again with the same settings it goes on."""


class TimeLimit(SavedStop):
    """Stops a run at the first step that ends after the time is over.

    Args:
        seconds: from now; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.end is not None and time.monotonic() >= self.end

    def stops(self, args: Any, state: Any) -> bool:  # noqa: ARG002
        """Whether the time is over.

        Args:
            args, state: unused.
        """
        return self.is_over

    def stop(self, state: Any) -> NoReturn:
        """Say how far the run came.

        Args:
            state: of the trainer.

        Raises:
            OutOfTimeError: always.
        """
        raise OutOfTimeError(
            f"the time was over after step {state.global_step} of {state.max_steps}: start the same run "
            "again to go on from there"
        )
