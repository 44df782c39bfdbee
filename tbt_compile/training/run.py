"""One training run: where it happens and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tbt_compile.progress import Progress
from tbt_compile.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingRun:
    """Where and how one model is trained.

    Attributes:
        folder: for the model, its tokenizer, checkpoints and the record of the run.
        settings: of the optimization.
        resume: go on from the last checkpoint in the folder, or load the model if the run is finished;
            otherwise start over.
        progress: told what is going on and the share that is done.
        title: what reports of progress call the run.
    """

    folder: str | Path
    settings: TrainSettings = field(default_factory=TrainSettings)
    resume: bool = True
    progress: Progress | None = None
    title: str = ""

    def steps(self, examples: int) -> int:
        """Optimizer steps for that many examples."""
        return self.settings.total_steps(examples)

    def titled(self, title: str) -> TrainingRun:
        """The same run under `title`, unless it has one."""
        return self if self.title else replace(self, title=title)

    def half(self, examples: int) -> TrainingRun:
        """The same run with half of the steps: one of two stages."""
        steps = max(1, self.steps(examples) // 2)
        return replace(self, settings=replace(self.settings, steps=steps))

    def first_stage(self, name: str) -> TrainingRun:
        """A run in the folder `name` below this one, before it."""
        return replace(self, folder=Path(self.folder) / name, title=f"{self.title}: {name}")
