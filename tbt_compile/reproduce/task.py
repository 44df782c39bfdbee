"""The data of an experiment, with its lengths, search and metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextData, TextPair, digest, load_folder
from tbt_compile.demo.task import LENGTHS as DEMO_LENGTHS
from tbt_compile.demo.task import build_task
from tbt_compile.errors import DataError
from tbt_compile.evaluation import constant_baseline, lead_baseline
from tbt_compile.evaluation.generation import DecodeSettings
from tbt_compile.reproduce import paper_data
from tbt_compile.reproduce.experiment import DEMO, Experiment
from tbt_compile.reproduce.find import find_table
from tbt_compile.training import processes

DEMO_ITEMS = (40_000, 500)
"""Training and test items, as in `tbt demo`."""
DEMO_SEED = 1


@dataclass(frozen=True)
class Task:
    """Text pairs with their lengths, search and metric.

    Attributes:
        name: of the folder or data set.
        data: the splits.
        lengths: to truncate to; that of targets also limits generation.
        num_beams: of the search.
        metric: "rouge" or "bleu".
        test: the pairs to score.
        data_set: key of the paper's data set; None for others.
        generation: fields of a `GenerationConfig`.
        languages: codes of source and target, for a multilingual tokenizer.
    """

    name: str
    data: TextData
    lengths: TextLengths
    num_beams: int
    metric: str
    test: tuple[TextPair, ...]
    data_set: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    languages: tuple[str, str] | None = None

    @property
    def decode(self) -> DecodeSettings:
        """The settings of generation for the test pairs."""
        return DecodeSettings(self.lengths.source, self.lengths.target, self.num_beams)

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Corpus:
        """The training pairs as a corpus."""
        return Corpus(self.data.train, tokenizer, self.lengths)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Everything that scores depend on, JSON-ready, with hashes in place of texts."""
        return {
            "name": self.name,
            "train": digest(self.data.train),
            "test": digest(self.test),
            **self.lengths.to_dict(),
            "num_beams": self.num_beams,
            "generation": dict(self.generation),
        }

    @cached_property
    def trivial_baselines(self) -> dict[str, float]:
        """ROUGE-1 of copying the first sentence of the source, and of always writing the same text."""
        constant = constant_baseline(self.data.train, self.test)[1]
        return {"lead_copy": lead_baseline(self.test).rouge1, "constant": constant.rouge1}


def open_task(experiment: Experiment) -> Task:
    """Read, generate or fetch the data of an experiment.

    Raises:
        DataError: the data cannot be read or fetched, or has no test pairs.
    """
    metric = experiment.metric or ("bleu" if find_table(experiment.table).columns == ("BLEU",) else "rouge")
    if experiment.dataset is not None:
        known = paper_data.find_paper_data(experiment.dataset)
        with processes.first():
            data = paper_data.fetch(experiment.dataset)
        return Task(
            experiment.dataset,
            data,
            experiment.lengths(known.lengths),
            experiment.num_beams or known.num_beams,
            experiment.metric or known.metric,
            _test(data, experiment, experiment.dataset),
            experiment.dataset,
            known.generation,
            known.languages,
        )
    folder = Path(str(experiment.data))
    lengths = TextLengths()
    if experiment.is_demo:
        lengths = DEMO_LENGTHS
        with processes.first():
            data = build_task(experiment.output, *DEMO_ITEMS, DEMO_SEED, experiment.resume).data
    else:
        data = load_folder(folder)
    return Task(
        DEMO if experiment.is_demo else folder.resolve().name,
        data,
        experiment.lengths(lengths),
        experiment.num_beams or 1,
        metric,
        _test(data, experiment, str(folder)),
    )


def _test(data: TextData, experiment: Experiment, where: str) -> tuple[TextPair, ...]:
    pairs = (data.test or data.validation)[: experiment.test_sentences]
    if not pairs:
        raise DataError(f"{where} has neither a test nor a validation split: scores need one of them")
    return pairs
