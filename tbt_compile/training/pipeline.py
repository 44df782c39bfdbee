"""The resumable pipeline from a data set to a low-bit student: tokenizer, teacher, student, scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.adapters.pretrained import is_quantized
from tbt_compile.data.tokenization import load_tokenizer, train_bpe_tokenizer
from tbt_compile.errors import DataError
from tbt_compile.progress import Progress
from tbt_compile.recipe import Recipe
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.storage.os_errors import writing
from tbt_compile.training.job import TrainJob
from tbt_compile.training.job_data import JobData
from tbt_compile.training.open_data import open_data
from tbt_compile.training.record import TrainingRecord, read_record
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.sizes import model_type
from tbt_compile.training.stages import distill, load_teacher, train_teacher
from tbt_compile.training.tasks import task_of
from tbt_compile.training.teacher_cache import TeacherCache

_Teacher: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase, Path]
"""A teacher, its tokenizer and its folder."""


@dataclass(frozen=True)
class TrainResult:
    """The folders of teacher and student, and their scores (empty without a test or validation split)."""

    teacher_folder: Path
    student_folder: Path
    teacher_scores: dict[str, Any]
    student_scores: dict[str, Any]
    cache: dict[str, Any] | None = None
    """Figures of the cache of the teacher's distributions, if there is one."""


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
    kind = model_type(job.model_type).kind if given is None else task_of(given[0]).kind
    data = open_data(job, kind, *((None, None) if given is None else (given[0], given[2])))
    if given is not None:
        data.check(given[1])
    output = Path(job.output)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    teacher, tokenizer, teacher_folder = given or _trained_teacher(job, data, output, progress)
    student_folder = output / f"student-{recipe}"
    student = distill(
        teacher,
        recipe,
        data.corpus(tokenizer),
        TrainingRun(student_folder, job.student_settings, job.resume, progress),
        objective=job.weights,
        start=start,
        cache=None if job.cache_logits is None else TeacherCache(output / "teacher-logits", job.cache_logits),
    )
    scores = {
        name: data.score(model, tokenizer, progress, f"evaluating {name}") if data.scored else {}
        for name, model in (("teacher", teacher), (f"student {recipe}", student))
    }
    save_json(student_folder / "results.json", scores)
    return TrainResult(
        teacher_folder,
        student_folder,
        scores["teacher"],
        scores[f"student {recipe}"],
        read_record(student_folder).get("outcome", {}).get("cache"),
    )


def _given_teacher(folder: Path) -> _Teacher:
    model = _open(folder, "teacher")
    try:
        return model, AutoTokenizer.from_pretrained(str(folder), local_files_only=True), folder
    except (OSError, ValueError) as error:
        raise DataError(
            f"teacher folder {folder} holds no tokenizer that can be read: save the model's tokenizer there "
            "with save_pretrained"
        ) from error


def _trained_teacher(job: TrainJob, data: JobData, output: Path, progress: Progress | None) -> _Teacher:
    tokenizer = _tokenizer(job, data, output / "tokenizer", progress)
    folder, make = output / "teacher", model_type(job.model_type).make
    model = train_teacher(
        make(job.size, tokenizer, data.positions(tokenizer), job.teacher_settings.seed),
        data.corpus(tokenizer),
        TrainingRun(folder, job.teacher_settings, job.resume, progress),
    )
    return model, tokenizer, folder


def _open(folder: Path, role: str) -> PreTrainedModel:
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{role} folder {folder} holds no model: expected config.json, weights and a tokenizer"
        )
    if role == "teacher" and is_quantized(folder):
        raise DataError(
            f"teacher folder {folder} holds a quantized student: expected a full-precision model, such as "
            "the student's own teacher; a student with more bits goes to --start"
        )
    return load_teacher(folder)


def _tokenizer(
    job: TrainJob, data: JobData, folder: Path, progress: Progress | None
) -> PreTrainedTokenizerBase:
    texts = list(data.texts())
    record = TrainingRecord(folder, {"vocab_size": job.vocab_size, "texts": _hash(texts)})
    if record.open(job.resume) is None:
        if progress is not None:
            progress("training the tokenizer", 0.0)
        tokenizer = train_bpe_tokenizer(texts, job.vocab_size)
        with writing(folder):
            tokenizer.save_pretrained(folder)
        record.finish({"tokens": len(tokenizer)})
    return load_tokenizer(folder)


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
