"""Telling the caller how far a training run is, instead of printing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from tbt_compile.progress import Progress


class TrainerProgress(TrainerCallback):
    """Reports every step to a `Progress` function: steps, latest loss, time left."""

    def __init__(self, report: Progress | None, title: str) -> None:
        self.report, self.title = report, title
        self.loss: float | None = None
        self.started, self.first_step = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.started, self.first_step = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        self.loss = (logs or {}).get("loss", self.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.report is None:
            return
        done = state.global_step - self.first_step
        left = (time.perf_counter() - self.started) / done * (state.max_steps - state.global_step)
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        text = f"{self.title}: step {state.global_step} of {state.max_steps}{loss}, {left:.0f} s left"
        self.report(text, state.global_step / state.max_steps)


def silence(trainer: Any) -> None:
    """Take the trainer's own progress bar and printed log lines away."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from showing bars for files that it reads and writes, and remarks on checkpoints."""
    enabled, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if enabled:
            logging.enable_progress_bar()
