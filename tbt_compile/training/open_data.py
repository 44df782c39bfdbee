"""Reading the data of a training job: which records a kind of model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedModel

from tbt_compile.data.labeled_texts import label_reader
from tbt_compile.data.recordings import feature_extractor, recording_reader
from tbt_compile.data.records import Reader, Record, load_split, load_splits, text_at
from tbt_compile.data.text_pairs import pair_reader
from tbt_compile.errors import DataError
from tbt_compile.training.job import TrainJob
from tbt_compile.training.job_data import (
    JobData,
    LabeledData,
    PairData,
    PlainTextData,
    PromptData,
    SpeechData,
)

_Opened: TypeAlias = tuple[type[JobData], Reader[Any]]


def open_data(
    job: TrainJob, kind: str, model: PreTrainedModel | None, folder: Path | None, split: str | None = None
) -> JobData:
    """Read the data of a job; of a named split alone, only examples to score.

    Args:
        job: the configuration.
        kind: of the model, a `Task.kind`.
        model: the teacher; None: one is to be made.
        folder: of the teacher.
        split: of the examples to score; None: the test split, else the validation split.

    Raises:
        DataError: the data cannot be read, there is no such split, or an option does not fit this kind of
            model.
    """
    if job.template is not None and (kind != "decoder-only" or job.text_field is not None):
        raise DataError(
            "a template makes prompts of sources for decoder-only models: leave it out for other models, and "
            "for plain texts"
        )
    if job.text_field is not None and kind not in ("decoder-only", "classifier"):
        raise DataError(
            f"plain texts (text field {job.text_field!r}) train decoder-only models and classifiers: give "
            f"sources and targets for this one ({kind})"
        )
    data_class, reader = _KINDS[kind](job, model, folder)
    if split is not None:
        chosen = load_split(job.data, split, reader)
        return data_class(job, (), chosen[: job.test_sentences], model)
    splits: dict[str, Sequence[Any]] = dict(load_splits(job.data, reader))
    scored = splits.get("test") or splits.get("validation") or ()
    return data_class(job, splits["train"], scored[: job.test_sentences], model)


def _pairs(job: TrainJob, _model: PreTrainedModel | None, _folder: Path | None) -> _Opened:
    return PairData, pair_reader(job.source_field, job.target_field)


def _prompts(job: TrainJob, model: PreTrainedModel | None, _folder: Path | None) -> _Opened:
    field = job.text_field
    if field is None:
        if model is None and job.template is None:
            raise DataError("a new model has no chat template: give the template of its prompts (--template)")
        return PromptData, pair_reader(job.source_field, job.target_field)

    def parse(record: Record, where: str) -> str:
        return text_at(record, field, where)

    return PlainTextData, Reader(parse, (field,))


def _labels(job: TrainJob, model: PreTrainedModel | None, _folder: Path | None) -> _Opened:
    assert model is not None, "classifiers are not made from scratch"
    classes: dict[str, int] = model.config.label2id
    label = job.target_field if job.text_field is None else None
    return LabeledData, label_reader(classes, job.text_field or job.source_field, label)


def _speech(job: TrainJob, _model: PreTrainedModel | None, folder: Path | None) -> _Opened:
    assert folder is not None, "speech models are not made from scratch"
    extractor, data = feature_extractor(folder), Path(job.data)
    data = data.parent if data.suffix == ".jsonl" else data
    return SpeechData, recording_reader(data, extractor, job.source_field, job.target_field)


_KINDS: dict[str, Callable[[TrainJob, PreTrainedModel | None, Path | None], _Opened]] = {
    "encoder-decoder": _pairs,
    "decoder-only": _prompts,
    "classifier": _labels,
    "features to text": _speech,
}
