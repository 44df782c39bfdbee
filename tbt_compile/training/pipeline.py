"""The resumable pipeline from text pairs to a low-bit student: tokenizer, teacher, student, scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextData, load_data
from tbt_compile.data.tokenization import load_tokenizer, train_bpe_tokenizer
from tbt_compile.errors import DataError
from tbt_compile.evaluation.generation import DecodeSettings
from tbt_compile.evaluation.report import evaluate_model
from tbt_compile.progress import Progress
from tbt_compile.recipe import Recipe
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.storage.os_errors import writing
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.settings import LossWeights, TrainSettings
from tbt_compile.training.sizes import new_model
from tbt_compile.training.stages import distill, load_teacher, train_teacher


@dataclass(frozen=True)
class TrainJob:
    """The configuration of `train`.

    Attributes:
        data: folder with train.jsonl (and validation.jsonl, test.jsonl), or the name of a data set.
        output: folder for the tokenizer, `teacher/` and one `student-E-W-A/` with results.json per recipe.
        recipe: quantization of the student.
        teacher: folder of a fine-tuned full-precision model and its tokenizer; None trains a model of `size`
            from scratch on the data.
        start: folder of a model of the teacher's shape that initializes the student, usually a student with
            more bits (Liu et al. 2022, BiT, arXiv:2205.13016); None initializes it from the teacher.
        size: a name in `MODEL_SIZES`; unused with `teacher`.
        vocab_size: tokens of the byte-level BPE tokenizer; unused with `teacher`.
        lengths: maximum tokens of sources and targets; longer ones are truncated.
        teacher_settings, student_settings: optimization of each.
        weights: of the distillation loss terms.
        source_field, target_field: fields of the records that hold the texts.
        test_sentences: pairs of the test split (else the validation split) to score; 0 scores none.
        num_beams: beams of the search that scores both models; 1 is greedy.
        resume: continue what the output folder holds; otherwise start over.
    """

    data: str | Path
    output: str | Path
    recipe: str | Recipe = "2-2-2"
    teacher: str | Path | None = None
    start: str | Path | None = None
    size: str = "tiny"
    vocab_size: int = 8000
    lengths: TextLengths = field(default_factory=TextLengths)
    teacher_settings: TrainSettings = field(default_factory=TrainSettings)
    student_settings: TrainSettings = field(default_factory=TrainSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    source_field: str = "source"
    target_field: str = "target"
    test_sentences: int = 500
    num_beams: int = 1
    resume: bool = True


_Teacher: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase, Path]
"""A teacher, its tokenizer and its folder."""


@dataclass(frozen=True)
class TrainResult:
    """The folders of teacher and student, and their scores (empty without a test or validation split)."""

    teacher_folder: Path
    student_folder: Path
    teacher_scores: dict[str, Any]
    student_scores: dict[str, Any]


def train(job: TrainJob, progress: Progress | None = None) -> TrainResult:
    """Run the whole job, resuming whatever an interrupted call left in the output folder.

    Raises:
        DataError: the data or a model folder cannot be read.
        TrainingError: the settings are invalid, or the output folder holds a run with other settings.
        RecipeError: the recipe is not understood.
    """
    recipe = Recipe.parse(job.recipe)
    start = None if job.start is None else _open(Path(job.start), "start")
    given = None if job.teacher is None else _given_teacher(Path(job.teacher))
    data = load_data(job.data, job.source_field, job.target_field)
    output = Path(job.output)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    teacher, tokenizer, teacher_folder = given or _trained_teacher(job, data, output, progress)
    student_folder = output / f"student-{recipe}"
    student = distill(
        teacher,
        recipe,
        Corpus(data.train, tokenizer, job.lengths),
        TrainingRun(student_folder, job.student_settings, job.resume, progress),
        objective=job.weights,
        start=start,
    )
    scores = {
        name: _scores(model, tokenizer, data, job, progress, name)
        for name, model in (("teacher", teacher), (f"student {recipe}", student))
    }
    save_json(student_folder / "results.json", scores)
    return TrainResult(teacher_folder, student_folder, scores["teacher"], scores[f"student {recipe}"])


def _given_teacher(folder: Path) -> _Teacher:
    model = _open(folder, "teacher")
    try:
        return model, AutoTokenizer.from_pretrained(str(folder), local_files_only=True), folder
    except (OSError, ValueError) as error:
        raise DataError(
            f"teacher folder {folder} holds no tokenizer that can be read: save the model's tokenizer there "
            "with save_pretrained"
        ) from error


def _trained_teacher(job: TrainJob, data: TextData, output: Path, progress: Progress | None) -> _Teacher:
    tokenizer = _tokenizer(job, data, output / "tokenizer", progress)
    folder = output / "teacher"
    model = train_teacher(
        new_model(job.size, tokenizer, job.lengths.longest, job.teacher_settings.seed),
        Corpus(data.train, tokenizer, job.lengths),
        TrainingRun(folder, job.teacher_settings, job.resume, progress),
    )
    return model, tokenizer, folder


def _open(folder: Path, role: str) -> PreTrainedModel:
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{role} folder {folder} holds no model: expected config.json, weights and a tokenizer"
        )
    return load_teacher(folder)


def _tokenizer(
    job: TrainJob, data: TextData, folder: Path, progress: Progress | None
) -> PreTrainedTokenizerBase:
    if job.resume and (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    if progress is not None:
        progress("training the tokenizer", 0.0)
    tokenizer = train_bpe_tokenizer(data.texts(), job.vocab_size)
    with writing(folder):
        tokenizer.save_pretrained(folder)
    return tokenizer


def _scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TextData,
    job: TrainJob,
    progress: Progress | None,
    name: str,
) -> dict[str, Any]:
    pairs = (data.test or data.validation)[: job.test_sentences]
    if not pairs:
        return {}
    decode = DecodeSettings(job.lengths.source, job.lengths.target, job.num_beams)
    evaluation, _ = evaluate_model(
        model, tokenizer, pairs, decode, progress=progress, title=f"evaluating {name}"
    )
    return evaluation.to_dict()
