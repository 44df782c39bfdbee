"""What is asked for: a table, data, a model, seeds and lengths of training, with defaults for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tbt_compile.data.batches import TextLengths
from tbt_compile.errors import ReproduceError
from tbt_compile.reproduce import paper_data
from tbt_compile.training import MODEL_SIZES, TrainSettings
from tbt_compile.training.settings import student_rate, teacher_rate

DEMO = "DEMO"
"""Stands for the text that the project makes up itself."""
VOCAB_SIZE = 8000


@dataclass(frozen=True)
class Experiment:
    """A table or figure, and what to make it from.

    Attributes:
        table: one of `paper.TABLES`.
        output: folder for everything: data, teacher, one folder per student, rows/, tables and figures.
        data: folder with train.jsonl and test.jsonl, or `DEMO`; else `dataset`: one of the paper's.
        config: "tiny", "small" or "base" to train a model from nothing, or the name or folder of one.
        seeds: of the students. There is one teacher, of `teacher_seed`.
        rows: patterns such as "tbt-*" of the rows to make; None: all.
        steps, teacher_steps: of training; None: twenty epochs, as in the paper, and 500 and 700 for `DEMO`.
            A `teacher_steps` of 0 takes the model of `config` as it is.
        batch_size: over all processes; None: 128, as in the paper, or 64 with `data`.
        learning_rate, teacher_learning_rate: peaks; None: 4e-3 and 2e-3 for tiny and small, else the paper's
            5e-4. Students with 8-bit activations get half, as in the paper. Given alone, the first is the
            teacher's too.
        vocab_size: of the tokenizer that is made for a `config` trained from nothing; None: 8000. `DEMO` has
            one token per word.
        metric: "rouge" or "bleu", for the columns of the table; both are measured.
        test_sentences: the first so many pairs of the test split are scored; None: all.
        num_beams: of generation; None: the paper's for its data sets, else 1.
    """

    table: str
    output: Path
    data: str | None = None
    dataset: str | None = None
    config: str = "tiny"
    seeds: tuple[int, ...] = (1,)
    rows: tuple[str, ...] | None = None
    steps: int | None = None
    teacher_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    teacher_learning_rate: float | None = None
    teacher_seed: int = 1
    vocab_size: int | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None
    metric: str | None = None
    test_sentences: int | None = None
    num_beams: int | None = None
    save_every: int = 100
    resume: bool = True

    def __post_init__(self) -> None:
        if (self.data is None) == (self.dataset is None):
            raise ReproduceError(
                f"which data? Give one of --data (a folder, or {DEMO}) and --dataset "
                f"({', '.join(paper_data.PAPER_DATA)})"
            )
        if self.metric not in (None, "rouge", "bleu"):
            raise ReproduceError(f"metric {self.metric!r}: expected rouge or bleu")
        if self.teacher_steps == 0 and self.config in MODEL_SIZES:
            raise ReproduceError(
                f"--teacher-steps 0 with --config {self.config}: a model that is trained from nothing needs "
                "steps; give the folder of a fine-tuned one as --config"
            )
        if self.vocab_size is not None and (self.is_demo or self.config not in MODEL_SIZES):
            raise ReproduceError(
                f"--vocab-size {self.vocab_size}: {DEMO if self.is_demo else self.config} has a tokenizer of "
                f"its own; leave the option out, or train one of {', '.join(MODEL_SIZES)} on a folder"
            )

        # Faulty settings of students are to be noticed before the teacher is trained.
        self.student_training("2-2-2", 0)

    @property
    def is_demo(self) -> bool:
        """Whether the project's own text is used."""
        return self.data == DEMO

    @property
    def model_name(self) -> str:
        """What tables call the model: a size, the name of one, or a folder's without the path to it."""
        return Path(self.config).resolve().name if Path(self.config).is_dir() else self.config

    def lengths(self, usual: TextLengths) -> TextLengths:
        """The lengths that were asked for, else the usual ones of the data."""
        return TextLengths(self.max_source_length or usual.source, self.max_target_length or usual.target)

    @property
    def teacher_training(self) -> TrainSettings:
        """Settings of the full-precision model."""
        steps = self.teacher_steps or (700 if self.is_demo else None)
        given = self.learning_rate if self.teacher_learning_rate is None else self.teacher_learning_rate
        rate = teacher_rate(self.config) if given is None else given
        return self._settings(steps, rate, self.teacher_seed)

    def student_training(self, notation: str, seed: int) -> TrainSettings:
        """Settings of a student; with 8-bit activations the learning rate is halved."""
        steps = self.steps or (500 if self.is_demo else None)
        return self._settings(steps, student_rate(self.config, notation, self.learning_rate), seed)

    def _settings(self, steps: int | None, learning_rate: float, seed: int) -> TrainSettings:
        return TrainSettings(
            epochs=paper_data.EPOCHS,
            steps=steps,
            batch_size=self.batch_size or (64 if self.dataset is None else paper_data.BATCH_SIZE),
            learning_rate=learning_rate,
            save_every=self.save_every,
            seed=seed,
        )
