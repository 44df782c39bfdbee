"""The paper's data sets, with the settings of the paper and its released code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tbt_compile.data.batches import TextLengths
from tbt_compile.data.text_pairs import TextData, load_data
from tbt_compile.errors import DataError, did_you_mean


@dataclass(frozen=True)
class PaperData:
    """The paper's settings for a data set.

    Attributes:
        hub: name (and configuration) for `datasets`.
        source, target: fields of the texts there.
        lengths: maximum tokens; that of targets also limits generation. The paper gives none for translation;
            128 is our choice.
        num_beams: of the search.
        metric: "rouge" or "bleu".
        generation: fields of a `GenerationConfig`.
        languages: codes of source and target for a multilingual tokenizer.
    """

    hub: str
    source: str
    target: str
    lengths: TextLengths
    num_beams: int
    metric: str = "rouge"
    generation: Mapping[str, Any] = field(default_factory=dict)
    languages: tuple[str, str] | None = None


PAPER_DATA = {
    "xsum": PaperData(
        "EdinburghNLP/xsum", "document", "summary", TextLengths(1024, 62), 6,
        generation={"min_length": 11, "length_penalty": 1.0},
    ),
    "cnn_dailymail": PaperData(
        "abisee/cnn_dailymail:3.0.0", "article", "highlights", TextLengths(1024, 128), 4,
        generation={"min_length": 56, "length_penalty": 2.0},
    ),
    "wmt16-ro-en": PaperData(
        "wmt/wmt16:ro-en", "translation.en", "translation.ro", TextLengths(128, 128), 5,
        metric="bleu", languages=("en_XX", "ro_RO"),
    ),
}  # fmt: skip
BATCH_SIZE = 128
EPOCHS = 20.0


def find_paper_data(name: str) -> PaperData:
    """The settings for the data set called `name`.

    Raises:
        DataError: the data set is not one of the paper's.
    """
    if name not in PAPER_DATA:
        raise DataError(
            f"unknown data set {name!r}: expected one of {', '.join(PAPER_DATA)}, or --data with a folder."
            + did_you_mean(name, PAPER_DATA)
        )
    return PAPER_DATA[name]


def fetch(name: str) -> TextData:
    """Download a data set, or load it from the cache of `datasets`.

    Raises:
        DataError: the data set is not one of the paper's, or there is neither a network nor a cached copy.
    """
    known = find_paper_data(name)
    return load_data(known.hub, known.source, known.target)
