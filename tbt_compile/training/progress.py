"""Progress reports of a training run, with its speed and memory, in place of the trainer's own output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from tbt_compile.progress import Progress


class TrainerProgress(TrainerCallback):
    """Reports to a `Progress` function after every step: step, loss, rate, speed, memory, time left.

    Args:
        report: the function; None: nothing is reported.
        title: of the run.
        speed: returns the tokens per second.
    """

    def __init__(self, report: Progress | None, title: str, speed: Callable[[], float]) -> None:
        self.report, self.title, self.speed = report, title, speed
        self.logged: dict[str, float] = {}
        self.started, self.first_step = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Start the clock at the step that the run starts or resumes from.

        Args:
            args, control: unused.
            state: of the trainer.
        """
        self.started, self.first_step = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep the latest loss and learning rate.

        Args:
            args, state, control: unused.
            logs: logged figures.
        """
        self.logged.update(logs or {})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Report the step.

        Args:
            args, control: unused.
            state: of the trainer.
        """
        if self.report is None:
            return
        done = state.global_step - self.first_step
        left = (time.perf_counter() - self.started) / done * (state.max_steps - state.global_step)
        loss = ""
        if "loss" in self.logged:
            loss = f", loss {self.logged['loss']:.3f}, rate {self.logged['learning_rate']:.1e}"
        cost = f"{self.speed():.0f} tokens/s, {memory_gib():.1f} GiB"
        text = f"{self.title}: step {state.global_step} of {state.max_steps}{loss}, {cost}, {left:.0f} s left"
        self.report(text, state.global_step / state.max_steps)


def memory_gib() -> float:
    """The memory of this process in GiB: the most that was reserved on its GPU, else what it holds now."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved()) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30


def silence(trainer: Any) -> None:
    """Remove the trainer's own progress bar and printed logs."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off transformers' progress bars and warnings about files and checkpoints within the context."""
    enabled, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if enabled:
            logging.enable_progress_bar()
