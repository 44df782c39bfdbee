"""The folder, settings and progress callback of one training run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tbt_compile.progress import Progress
from tbt_compile.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingRun:
    """Where and how one model is trained.

    Attributes:
        folder: for the model, its tokenizer, the checkpoints and the record of the run.
        settings: optimization settings.
        resume: resume from the last checkpoint in the folder, or load the model of a finished run; otherwise
            start over.
        progress: called with a description and the share done, from 0 to 1.
        title: name of the run in progress reports.
    """

    folder: str | Path
    settings: TrainSettings = field(default_factory=TrainSettings)
    resume: bool = True
    progress: Progress | None = None
    title: str = ""

    def steps(self, examples: int) -> int:
        """Optimizer steps over a training set of `examples`."""
        return self.settings.total_steps(examples)

    def titled(self, title: str) -> TrainingRun:
        """This run with `title` as its title, unless it already has one."""
        return self if self.title else replace(self, title=title)

    def half(self, examples: int) -> TrainingRun:
        """This run with half the steps: one of two stages."""
        steps = max(1, self.steps(examples) // 2)
        return replace(self, settings=replace(self.settings, steps=steps))

    def first_stage(self, name: str) -> TrainingRun:
        """The stage before this one, in the subfolder `name`."""
        return replace(self, folder=Path(self.folder) / name, title=f"{self.title}: {name}")
