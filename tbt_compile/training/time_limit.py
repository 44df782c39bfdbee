"""A limit on the time of a training run: it saves a checkpoint when the time is over, and stops."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from tbt_compile.training.settings import TrainingError


class OutOfTimeError(TrainingError):
    """A run was stopped by its `TimeLimit`; called again with the same settings it goes on."""


class TimeLimit(TrainerCallback):
    """Stops a run at the first step that ends after the time is over.

    The step is saved as a checkpoint first. Settings and schedule do not know of the limit, so a run in
    several parts ends with the weights of one that was not stopped.

    Args:
        seconds: from now; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.end is not None and time.monotonic() >= self.end

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Ask for a checkpoint if the time is over and steps are left.

        Args:
            args: unused.
            state, control: of the trainer.
        """
        if self.is_over and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Stop, now that the step is on disk.

        Args:
            args, control: unused.
            state: of the trainer.

        Raises:
            OutOfTimeError: the time is over and steps are left.
        """
        if self.is_over and state.global_step < state.max_steps:
            raise OutOfTimeError(
                f"the time was over after step {state.global_step} of {state.max_steps}: start the same run "
                "again to go on from there"
            )
