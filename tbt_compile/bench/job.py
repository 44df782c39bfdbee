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
        folder: where `build` leaves its files and `load` finds them.
        clock: whether the engine that can measures its kernels.
    """

    engine: str
    recipe: str
    shape: str
    threads: int
    source_length: int
    new_tokens: int
    target: str
    folder: str
    clock: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold; `Job(**d)` reads it back."""
        return asdict(self)


@dataclass
class Row:
    """What came out, or why nothing did.

    Attributes:
        encoder_ms: median time to read the source text.
        token_ms: median time per generated token.
        encoder_cpu_ms, token_cpu_ms: the same in CPU time of all threads, which other programs on the machine
            disturb less.
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
