"""The data of a training job, by kind of model: examples to train on, and a metric of what was learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus
from tbt_compile.data.decoder_text import PromptCorpus, TextCorpus
from tbt_compile.data.examples import Examples
from tbt_compile.data.labeled_texts import LabeledCorpus
from tbt_compile.data.limits import positions_of
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.data.recordings import SpeechCorpus, feature_extractor
from tbt_compile.evaluation.classification import accuracy, class_logits
from tbt_compile.evaluation.generation import DecodeSettings
from tbt_compile.evaluation.perplexity import perplexity
from tbt_compile.evaluation.report import evaluate_model
from tbt_compile.evaluation.transcription import evaluate_speech
from tbt_compile.progress import Progress
from tbt_compile.training.job import TrainJob
from tbt_compile.training.settings import TrainingError


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
        """The positions that a model needs."""
        return self.job.lengths.longest

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse lengths for which the teacher has no positions.

        Raises:
            TrainingError: it has fewer.
        """
        needed, there = self.positions(tokenizer), positions_of(self.model)
        if there is not None and needed > there:
            raise TrainingError(
                f"sources of {self.job.lengths.source} and targets of {self.job.lengths.target} tokens need "
                f"{needed} positions, and the teacher has {there}: give smaller lengths (--source-length, "
                "--target-length)"
            )

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
        return PromptCorpus(self.train, tokenizer, self.job.lengths, self.job.template)


class PlainTextData(JobData):
    """Texts for decoder-only models, in blocks; scored by perplexity."""

    def positions(self, tokenizer: PreTrainedTokenizerBase) -> int:  # noqa: ARG002
        """Those of a block."""
        return self.job.lengths.source

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

    def positions(self, tokenizer: PreTrainedTokenizerBase) -> int:  # noqa: ARG002
        """Those of the longest text."""
        return self.job.lengths.source

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

    def positions(self, tokenizer: PreTrainedTokenizerBase) -> int:  # noqa: ARG002
        """Those of the longest transcript and a start token."""
        return self.job.lengths.target + 1

    def texts(self) -> Iterable[str]:
        """The transcripts."""
        return (item.text for item in self.train)

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Features and transcripts."""
        assert self.model is not None, "speech models are not made from scratch"
        start, name = self.model.config.decoder_start_token_id, str(self.model.main_input_name)
        extractor = feature_extractor(self.model.name_or_path)
        return SpeechCorpus(self.train, tokenizer, self.job.lengths.target, int(start), name, extractor)

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
