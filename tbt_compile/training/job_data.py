"""The data of a training job, by kind of model: examples to train on, and a metric of what was learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus
from tbt_compile.data.decoder_text import PromptCorpus, TextCorpus
from tbt_compile.data.examples import Examples
from tbt_compile.data.labeled_texts import LabeledCorpus, label_reader
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.data.recordings import SpeechCorpus, recording_reader
from tbt_compile.data.records import Reader, Record, load_splits, text_at
from tbt_compile.data.text_pairs import pair_reader
from tbt_compile.errors import DataError
from tbt_compile.evaluation.classification import accuracy, class_logits
from tbt_compile.evaluation.generation import DecodeSettings
from tbt_compile.evaluation.perplexity import perplexity
from tbt_compile.evaluation.report import evaluate_model
from tbt_compile.evaluation.transcription import evaluate_speech
from tbt_compile.progress import Progress
from tbt_compile.training.job import TrainJob


@dataclass(frozen=True)
class JobData(ABC):
    """Examples of one kind.

    Attributes:
        job: the configuration.
        train: the training examples.
        scored: the examples to score.
        model: the teacher; None: one is made from scratch.
    """

    job: TrainJob
    train: Sequence[Any]
    scored: Sequence[Any]
    model: PreTrainedModel | None

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """Every training text, for training a tokenizer."""

    @abstractmethod
    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """The training examples."""

    def positions(self, tokenizer: PreTrainedTokenizerBase) -> int:  # noqa: ARG002
        """The positions that a model from scratch needs."""
        return self.job.lengths.longest

    @abstractmethod
    def score(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None,
        title: str,
    ) -> dict[str, Any]:
        """The metric of a model on the examples to score, JSON-ready.

        Args:
            model: teacher or student.
            tokenizer: of the model.
            progress: called with `title` and the share that is done.
            title: of the progress reports.
        """


class PairData(JobData):
    """Sources and targets, for models that write text; scored by ROUGE and BLEU."""

    @property
    def template(self) -> PromptTemplate | None:
        """Of prompts; None for a model with an encoder."""
        return None

    def texts(self) -> Iterable[str]:
        """Sources and targets."""
        return (text for pair in self.train for text in (pair.source, pair.target))

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Pairs for an encoder-decoder."""
        return Corpus(self.train, tokenizer, self.job.lengths)

    def score(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None,
        title: str,
    ) -> dict[str, Any]:
        """ROUGE and BLEU.

        Args:
            model, tokenizer, progress, title: see `JobData.score`.
        """
        lengths, beams = self.job.lengths, self.job.num_beams
        decode = DecodeSettings(lengths.source, lengths.target, beams, template=self.template)
        evaluation, _ = evaluate_model(model, tokenizer, self.scored, decode, progress=progress, title=title)
        return evaluation.to_dict()


class PromptData(PairData):
    """Sources and targets as prompts and answers, for decoder-only models."""

    @property
    def template(self) -> PromptTemplate:
        """Of prompts."""
        return PromptTemplate(self.job.template)

    def positions(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Those of the longest source in the template, and of the longest target."""
        lengths = self.job.lengths
        return lengths.source + lengths.target + len(self.template.prompts(tokenizer, ["?"], 1)[0])

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Prompts and answers."""
        return PromptCorpus(self.train, tokenizer, self.job.lengths, self.template)


class PlainTextData(JobData):
    """Texts for decoder-only models, in blocks; scored by perplexity."""

    def texts(self) -> Iterable[str]:
        """The texts."""
        return self.train

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Packed blocks."""
        return TextCorpus(self.train, tokenizer, self.job.lengths.source)

    def score(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None,
        title: str,
    ) -> dict[str, Any]:
        """Perplexity.

        Args:
            model, tokenizer, progress, title: see `JobData.score`.
        """
        block = self.job.lengths.source
        return perplexity(model, tokenizer, self.scored, block, progress=progress, title=title).to_dict()


class LabeledData(JobData):
    """Texts with classes; scored by accuracy."""

    def texts(self) -> Iterable[str]:
        """The texts."""
        return (item.text for item in self.train)

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Labelled texts."""
        return LabeledCorpus(self.train, tokenizer, self.job.lengths.source)

    def score(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None,
        title: str,
    ) -> dict[str, Any]:
        """Accuracy; nothing if the texts have no classes.

        Args:
            model, tokenizer, progress, title: see `JobData.score`.
        """
        if self.job.text_field is not None:
            return {}
        texts, longest = [item.text for item in self.scored], self.job.lengths.source
        logits = class_logits(model, tokenizer, texts, longest, progress=progress, title=title)
        return accuracy(logits, self.scored).to_dict()


class SpeechData(JobData):
    """Recordings and their transcripts; scored by word error rate."""

    def texts(self) -> Iterable[str]:
        """The transcripts."""
        return (item.text for item in self.train)

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Features and transcripts."""
        assert self.model is not None, "speech models are not made from scratch"
        start, name = self.model.config.decoder_start_token_id, str(self.model.main_input_name)
        return SpeechCorpus(self.train, tokenizer, self.job.lengths.target, int(start), name)

    def score(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Progress | None,
        title: str,
    ) -> dict[str, Any]:
        """Word error rate.

        Args:
            model, tokenizer, progress, title: see `JobData.score`.
        """
        found, _ = evaluate_speech(
            model,
            tokenizer,
            self.scored,
            self.job.lengths.target,
            name=str(model.main_input_name),
            num_beams=self.job.num_beams,
            progress=progress,
            title=title,
        )
        return found.to_dict()


def open_data(job: TrainJob, kind: str, model: PreTrainedModel | None, folder: Path | None) -> JobData:
    """Read the data of a job.

    Args:
        job: the configuration.
        kind: of the model, a `Task.kind`.
        model: the teacher; None: one is to be made.
        folder: of the teacher.

    Raises:
        DataError: the data cannot be read, or an option does not fit this kind of model.
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
    splits: dict[str, Sequence[Any]] = dict(load_splits(job.data, reader))
    scored = (splits.get("test") or splits.get("validation") or ())[: job.test_sentences]
    return data_class(job, splits["train"], scored, model)


_Opened = tuple[type[JobData], Reader[Any]]


def _pairs(job: TrainJob, _model: PreTrainedModel | None, _folder: Path | None) -> _Opened:
    return PairData, pair_reader(job.source_field, job.target_field)


def _prompts(job: TrainJob, _model: PreTrainedModel | None, _folder: Path | None) -> _Opened:
    field = job.text_field
    if field is None:
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
    extractor = None
    if folder is not None and (folder / "preprocessor_config.json").is_file():
        extractor = AutoFeatureExtractor.from_pretrained(str(folder), local_files_only=True)
    return SpeechData, recording_reader(Path(job.data), extractor, job.source_field, job.target_field)


_KINDS: dict[str, Callable[[TrainJob, PreTrainedModel | None, Path | None], _Opened]] = {
    "encoder-decoder": _pairs,
    "decoder-only": _prompts,
    "classifier": _labels,
    "features to text": _speech,
}
