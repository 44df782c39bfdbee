"""`Experiment`: the table, data, model, seeds and training settings, with the paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tbt_compile.data.batches import TextLengths
from tbt_compile.errors import ReproduceError
from tbt_compile.reproduce import paper_data
from tbt_compile.training import MODEL_SIZES, TrainSettings
from tbt_compile.training.settings import student_rate, teacher_rate

DEMO = "DEMO"
"""Name of the demo's generated text."""
VOCAB_SIZE = 8000


@dataclass(frozen=True)
class Experiment:
    """A table or figure to reproduce, and the data, model and training to reproduce it with.

    Attributes:
        table: one of `paper.TABLES`.
        output: folder for data, teacher, students/, rows/, tables and figures.
        data: folder with train.jsonl and test.jsonl, or `DEMO`; exclusive with `dataset`.
        dataset: one of the paper's data sets.
        config: "tiny", "wide", "small" or "base" for a model trained from scratch, or the name or folder of
            a model.
        seeds: of the students.
        rows: patterns such as "tbt-*" of the rows to train; None: all.
        steps, teacher_steps: of training; None: 500 and 700 for `DEMO`, else twenty epochs, as in the paper.
            A `teacher_steps` of 0 uses the model of `config` as it is.
        batch_size: over all processes; None: 64 with `data`, 128 with `dataset`, as in the paper.
        learning_rate, teacher_learning_rate: peaks; None: 4e-3 and 2e-3 for tiny, wide and small, else the
            paper's 5e-4. Students with 8-bit activations get half, as in the paper. Without the second, the
            first applies to the teacher too.
        teacher_seed: of the teacher; all students share one teacher.
        vocab_size: of the tokenizer of a model trained from scratch; None: 8000. `DEMO` has one token per
            word.
        max_source_length, max_target_length: tokens to truncate to; None: the data's usual lengths.
        metric: "rouge" or "bleu", the columns of the table; both are measured. None: the data's usual one.
        test_sentences: score only the first pairs of the test split; None: all.
        num_beams: of generation; None: the paper's for its data sets, else 1.
        save_every: steps between checkpoints.
        resume: resume from what the output folder holds; otherwise start over.
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
                f"which data? Give either --data (a folder, or {DEMO}) or --dataset "
                f"({', '.join(paper_data.PAPER_DATA)})"
            )
        if self.metric not in (None, "rouge", "bleu"):
            raise ReproduceError(f"metric {self.metric!r}: expected rouge or bleu")
        if self.teacher_steps == 0 and self.config in MODEL_SIZES:
            raise ReproduceError(
                f"--teacher-steps 0 with --config {self.config}: a model trained from scratch needs steps; "
                "give the folder of a fine-tuned model as --config"
            )
        if self.vocab_size is not None and (self.is_demo or self.config not in MODEL_SIZES):
            raise ReproduceError(
                f"--vocab-size {self.vocab_size}: {DEMO if self.is_demo else self.config} comes with a "
                f"tokenizer; leave the option out, or train one of {', '.join(MODEL_SIZES)} on a folder"
            )

        # Reports invalid settings of the students before the teacher is trained.
        self.student_training("2-2-2", 0)

    @property
    def is_demo(self) -> bool:
        """Whether the data is the demo's generated text."""
        return self.data == DEMO

    @property
    def model_name(self) -> str:
        """The name of the model in tables: a size, a model's name, or the last part of a folder's path."""
        return Path(self.config).resolve().name if Path(self.config).is_dir() else self.config

    def lengths(self, usual: TextLengths) -> TextLengths:
        """The requested lengths; where there are none, the data's usual ones."""
        return TextLengths(self.max_source_length or usual.source, self.max_target_length or usual.target)

    @property
    def teacher_training(self) -> TrainSettings:
        """Training settings of the teacher."""
        steps = self.teacher_steps or (700 if self.is_demo else None)
        given = self.learning_rate if self.teacher_learning_rate is None else self.teacher_learning_rate
        rate = teacher_rate(self.config) if given is None else given
        return self._settings(steps, rate, self.teacher_seed)

    def student_training(self, notation: str, seed: int) -> TrainSettings:
        """Training settings of a student; 8-bit activations halve the learning rate."""
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
