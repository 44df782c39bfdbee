"""`TrainJob`: the configuration of the pipeline behind `tbt train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tbt_compile.data.batches import TextLengths
from tbt_compile.recipe import Recipe
from tbt_compile.training.settings import LossWeights, TrainSettings


@dataclass(frozen=True)
class TrainJob:
    """The configuration of `train`.

    The teacher says what is trained. Records hold, by kind of model, a source and a target text; for a
    classifier a text and a class; for a speech model a file (.npy with features, or .wav) and its transcript.

    Attributes:
        data: folder with train.jsonl (and validation.jsonl, test.jsonl), or the name of a data set.
        output: folder for the tokenizer, `teacher/` and one `student-E-W-A/` with results.json per recipe.
        recipe: quantization of the student.
        teacher: folder of a fine-tuned full-precision model and its tokenizer; None trains a model of `size`
            from scratch on the data.
        start: folder of a model of the teacher's shape that initializes the student, usually a student with
            more bits (Liu et al. 2022, BiT, arXiv:2205.13016); None initializes it from the teacher.
        model_type: "bart" or "llama", of a model from scratch; unused with `teacher`.
        size: a name in `MODEL_SIZES`; unused with `teacher`.
        vocab_size: tokens of the byte-level BPE tokenizer; unused with `teacher`.
        lengths: maximum tokens of sources and targets; longer ones are truncated. Plain texts are packed into
            blocks of as many tokens as a source has.
        template: of the prompts of a decoder-only model, with `{source}` in it; None: its chat template.
        teacher_settings, student_settings: optimization of each.
        weights: of the distillation loss terms.
        cache_logits: keep this many of the teacher's most likely tokens of each prediction in the folder
            `teacher-logits` of the output, so that the teacher runs in the first epoch only; None: none.
        source_field, target_field: fields of the records that hold the source and the target.
        text_field: field of plain texts, for a decoder-only model that learns to continue them, or for a
            classifier that learns from its teacher alone; None: there are sources and targets.
        test_sentences: examples of the test split (else the validation split) to score; 0 scores none.
        num_beams: beams of the search that scores both models; 1 is greedy.
        resume: continue what the output folder holds; otherwise start over.
    """

    data: str | Path
    output: str | Path
    recipe: str | Recipe = "2-2-2"
    teacher: str | Path | None = None
    start: str | Path | None = None
    model_type: str = "bart"
    size: str = "tiny"
    vocab_size: int = 8000
    lengths: TextLengths = field(default_factory=TextLengths)
    template: str | None = None
    teacher_settings: TrainSettings = field(default_factory=TrainSettings)
    student_settings: TrainSettings = field(default_factory=TrainSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    cache_logits: int | None = None
    source_field: str = "source"
    target_field: str = "target"
    text_field: str | None = None
    test_sentences: int = 500
    num_beams: int = 1
    resume: bool = True
