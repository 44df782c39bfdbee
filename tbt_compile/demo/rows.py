"""One row of the demo's table: a model in one engine, measured on the test set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tbt_compile.demo.task import LENGTHS, DemoTask
from tbt_compile.evaluation import (
    DecodeSettings,
    Generated,
    generate_texts,
    milliseconds_per_sentence,
    rouge,
    token_agreement,
)
from tbt_compile.progress import Progress

TIMED_SENTENCES = 100
GREEDY = DecodeSettings(LENGTHS.source, LENGTHS.target)
BEAM = replace(GREEDY, num_beams=4)


@dataclass(frozen=True)
class DemoRow:
    """Figures of one model and engine.

    Attributes:
        name: "teacher" or the recipe.
        engine: "torch" (eager) or "compiled".
        rouge1, rouge2, rougeL: with greedy search, from 0 to 100.
        mean_length: in tokens.
        size_mib: of the weight file.
        ms_per_sentence: latency with greedy search at batch size 1.
        same_greedy, same_beam: share of outputs identical to the eager engine's (compiled only).
        library_mib: of the compiled code (compiled only).
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
    """A row with the texts behind it, for comparison with other engines.

    Attributes:
        row: the figures.
        greedy: output of greedy search.
        beam: output of beam search, if it was run.
    """

    row: DemoRow
    greedy: Generated
    beam: Generated | None


@dataclass(frozen=True)
class Subject:
    """A model in one engine.

    Attributes:
        name, engine: as in `DemoRow`.
        model: generates the texts.
        weights: file of its weights.
        library: file of its compiled code, if it is compiled.
    """

    name: str
    engine: str
    model: Any
    weights: Path
    library: Path | None = None

    @property
    def title(self) -> str:
        """Its name in progress reports."""
        return f"{self.name}, {self.engine}"


def measure(
    subject: Subject,
    task: DemoTask,
    *,
    with_beam: bool,
    reference: Measured | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Generate a text for every test pair, score them, and time the first `TIMED_SENTENCES`.

    Args:
        subject: the model to measure.
        task: the test pairs and the tokenizer.
        with_beam: run beam search too.
        reference: output of another engine, to compare token for token.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        The row and the texts.
    """
    model, tokenizer = subject.model, task.tokenizer
    sources = [pair.source for pair in task.data.test]

    def written(decode: DecodeSettings, search: str) -> Generated:
        title = f"{subject.title}: {search}"
        return generate_texts(model, tokenizer, sources, decode, progress=progress, title=title)

    greedy = written(GREEDY, "greedy")
    beam = written(BEAM, f"beam {BEAM.num_beams}") if with_beam else None
    scores = rouge(greedy.texts, [pair.target for pair in task.data.test])
    if progress is not None:
        progress(f"{subject.title}: timing", 0.9)
    row = DemoRow(
        name=subject.name,
        engine=subject.engine,
        rouge1=scores.rouge1,
        rouge2=scores.rouge2,
        rougeL=scores.rougeL,
        mean_length=greedy.mean_length,
        size_mib=subject.weights.stat().st_size / 2**20,
        ms_per_sentence=milliseconds_per_sentence(model, tokenizer, sources[:TIMED_SENTENCES], GREEDY),
        same_greedy=None if reference is None else token_agreement(reference.greedy.tokens, greedy.tokens),
        same_beam=None
        if reference is None or reference.beam is None or beam is None
        else token_agreement(reference.beam.tokens, beam.tokens),
        library_mib=None if subject.library is None else subject.library.stat().st_size / 2**20,
    )
    return Measured(row, greedy, beam)
