"""Callbacks that stop a training run at the end of a step, which is saved first."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NoReturn

from transformers import TrainerCallback


class SavedStop(TrainerCallback):
    """Saves a checkpoint at the end of the step after which `stops` is true, and stops the run there.

    Settings and schedule do not know of it: a run in several parts ends with the weights of one that was not
    stopped.
    """

    @abstractmethod
    def stops(self, args: Any, state: Any) -> bool:
        """Whether the run, which has steps left, stops after this one.

        Args:
            args, state: of the trainer.
        """

    @abstractmethod
    def stop(self, state: Any) -> NoReturn:
        """Raise the error that ends the run.

        Args:
            state: of the trainer.
        """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Ask for a checkpoint if the run stops here.

        Args:
            args, state, control: of the trainer.
        """
        if state.global_step < state.max_steps and self.stops(args, state):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Stop, now that the step is on disk.

        Args:
            args, state: of the trainer.
            control: unused.
        """
        if state.global_step < state.max_steps and self.stops(args, state):
            self.stop(state)
