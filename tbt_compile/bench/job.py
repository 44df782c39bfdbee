"""`Job` and `Row`: the work of one row of the generation benchmark, and its figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """The work of one row: an engine, and a workload that is the same for all engines.

    Attributes:
        engine: a name in `engines.ENGINES`.
        recipe: E-W-A notation; "" for engines without recipes.
        shape: a name in `model_shapes.SHAPES`.
        threads: of the engine.
        source_length: tokens of every source text; the maximum with `mixed`.
        new_tokens: tokens to generate for every text.
        target: CPU to compile for.
        folder: for the files that `build` writes and `load` reads.
        batch: texts per batch.
        beams: of the search; 1 is greedy.
        mixed: give the texts different lengths.
        clock: time single kernels, in the engine that can.
        shortlist: output vocabulary of the engine with recipes; 0 for the whole vocabulary.
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
        """The name of the row."""
        limit = f" of {self.shortlist}" if self.shortlist else ""
        return f"{self.engine} {self.recipe}{limit}".strip()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values; `Job(**d)` reads them back."""
        return asdict(self)


@dataclass
class Row:
    """The figures of one row, or the reason that there are none.

    Attributes:
        name: see `Job.name`.
        encoder_ms: median time to encode the source texts.
        token_ms: median time of a decoding step of the whole batch.
        encoder_cpu_ms, token_cpu_ms: the same in CPU time of all threads, which other programs disturb less.
        tokens_per_second: decoding throughput of the whole batch, without the encoder; for beam search, in
            tokens of the results.
        size_mib: of the model on disk.
        peak_mib: peak memory of the process during generation, with everything it has loaded.
        load_s: seconds to load the model, libraries included.
        build_s: seconds to write the files that are loaded.
        skipped: why there are no figures; "" if there are.
        samples: the measured seconds by kind, "first_token" or "all_tokens" in wall time or CPU time.
    """

    name: str
    encoder_ms: float = 0.0
    token_ms: float = 0.0
    encoder_cpu_ms: float = 0.0
    token_cpu_ms: float = 0.0
    tokens_per_second: float = 0.0
    size_mib: float = 0.0
    peak_mib: float = 0.0
    load_s: float = 0.0
    build_s: float = 0.0
    skipped: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)


def work_title(settings: dict[str, Any]) -> str:
    """The workload in words, of the settings of a generation benchmark as JSON has them."""
    upto = "up to " if settings["lengths"] == "mixed" else ""
    search = "greedily" if settings["beams"] == 1 else f"with {settings['beams']} beams"
    return (
        f"{settings['shape']}, {settings['batch']} text(s) of {upto}{settings['source_length']} tokens, "
        f"{settings['new_tokens']} new ones {search}, {settings['threads']} thread(s)"
    )
