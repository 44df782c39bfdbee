"""What one row of a benchmark measures, and what came out, in forms that travel between processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """One row: an engine, and the work that every engine gets.

    Attributes:
        engine: a name in `engines.ENGINES`.
        recipe: in E-W-A notation, for the engine that has one, else "".
        source_length: tokens of every source text; the most of them with `mixed`.
        folder: where `build` leaves its files and `load` finds them.
        batch: texts at a time.
        beams: of the search; 1 is greedy.
        mixed: whether the texts have different lengths.
        clock: whether the engine that can measures its kernels.
        shortlist: tokens that the engine with recipes may write; 0 for the whole vocabulary.
    """

    engine: str
    recipe: str
    shape: str
    threads: int
    source_length: int
    new_tokens: int
    target: str
    folder: str
    batch: int = 1
    beams: int = 1
    mixed: bool = False
    clock: bool = False
    shortlist: int = 0

    @property
    def name(self) -> str:
        """What the row is called."""
        limit = f" of {self.shortlist}" if self.shortlist else ""
        return f"{self.engine} {self.recipe}{limit}".strip()

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold; `Job(**d)` reads it back."""
        return asdict(self)


@dataclass
class Row:
    """What came out, or why nothing did.

    Attributes:
        encoder_ms: median time to read the source texts.
        token_ms: median time per generated token, of all texts of the batch together.
        encoder_cpu_ms, token_cpu_ms: the same in CPU time of all threads, which other programs on the machine
            disturb less.
        tokens_per_second: of all texts together, without the time to read them; of a beam search, the
            tokens of its results.
        size_mib: of the model on disk.
        peak_mib: most memory that the process held while it generated, with everything it had loaded.
        skipped: why there are no figures; empty when there are.
    """

    name: str
    encoder_ms: float = 0.0
    token_ms: float = 0.0
    encoder_cpu_ms: float = 0.0
    token_cpu_ms: float = 0.0
    tokens_per_second: float = 0.0
    size_mib: float = 0.0
    peak_mib: float = 0.0
    skipped: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
