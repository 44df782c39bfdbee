"""One line of the demo's table: a model, run by one engine, measured on the test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.demo.task import MAX_SOURCE_LENGTH, MAX_TARGET_LENGTH
from tbt_compile.evaluation import (
    Generated,
    generate_texts,
    milliseconds_per_sentence,
    rouge,
    token_agreement,
)
from tbt_compile.evaluation.generation import Progress

TIMED_SENTENCES = 100
BEAMS = 4
_LENGTHS = {"max_source_length": MAX_SOURCE_LENGTH, "max_new_tokens": MAX_TARGET_LENGTH}


@dataclass(frozen=True)
class DemoRow:
    """Figures of one model and engine.

    Attributes:
        name: "teacher" or the recipe. engine: "torch" (eager) or "compiled".
        rouge1, rouge2, rougeL: of greedy search, between 0 and 100. mean_length: in tokens.
        size_mib: the file of weights. ms_per_sentence: one sentence at a time, greedy.
        same_greedy, same_beam: share of sentences with the very tokens of the eager engine (compiled only).
        library_mib: the compiled code (compiled only).
    """

    name: str
    engine: str
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815
    mean_length: float
    size_mib: float
    ms_per_sentence: float
    same_greedy: float | None = None
    same_beam: float | None = None
    library_mib: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """A row, and what the engine wrote, to compare other engines with."""

    row: DemoRow
    greedy: Generated
    beam: Generated | None


def measure(
    name: str,
    engine: str,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TextPair],
    *,
    weights: Path,
    with_beam: bool,
    library: Path | None = None,
    reference: Measured | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Generate for every pair, greedily and maybe with beams; time some; compare with `reference`."""
    sources = [pair.source for pair in pairs]
    title = f"{name}, {engine}"
    greedy = generate_texts(
        model, tokenizer, sources, **_LENGTHS, progress=progress, title=f"{title}: greedy"
    )
    beam = None
    if with_beam:
        beam_title = f"{title}: beam {BEAMS}"
        beam = generate_texts(
            model,
            tokenizer,
            sources,
            **_LENGTHS,
            num_beams=BEAMS,
            progress=progress,
            title=beam_title,
        )
    scores = rouge(greedy.texts, [pair.target for pair in pairs])
    if progress is not None:
        progress(f"{title}: timing", 0.9)
    row = DemoRow(
        name=name,
        engine=engine,
        rouge1=scores.rouge1,
        rouge2=scores.rouge2,
        rougeL=scores.rougeL,
        mean_length=greedy.mean_length,
        size_mib=weights.stat().st_size / 2**20,
        ms_per_sentence=milliseconds_per_sentence(model, tokenizer, sources[:TIMED_SENTENCES], **_LENGTHS),
        same_greedy=None if reference is None else token_agreement(reference.greedy.tokens, greedy.tokens),
        same_beam=None
        if reference is None or reference.beam is None or beam is None
        else token_agreement(reference.beam.tokens, beam.tokens),
        library_mib=None if library is None else library.stat().st_size / 2**20,
    )
    return Measured(row, greedy, beam)
