"""The kernel benchmark: every operator and shape beside PyTorch, and beside what the machine allows.

Each engine has a process of its own. They take turns, case by case and round by round, so that a slow moment
of the machine falls on all of them.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.kernel_case import DEFAULT_OPERATORS, DEFAULT_SHAPES, KernelCase, parse_cases
from tbt_compile.bench.worker_process import Served
from tbt_compile.codegen.target.host import check_runnable
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.errors import TbtError
from tbt_compile.progress import Progress

PEERS = ("torch fp32", "torch int8 dynamic")
_US = 1e6


@dataclass(frozen=True)
class KernelSettings:
    """What is measured.

    Attributes:
        operators: "activation*weight", such as "ternary012*ternary".
        shapes: "MxNxK".
        rounds: turns of every engine; figures are medians over all of them.
    """

    operators: tuple[str, ...] = DEFAULT_OPERATORS
    shapes: tuple[str, ...] = DEFAULT_SHAPES
    threads: int = 1
    rounds: int = 5
    target: str = "host"
    peers: bool = True

    def check(self) -> list[KernelCase]:
        """The cases; raises a `TbtError` for anything that could not be measured."""
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise TbtError(f"{name} must be at least 1, not {getattr(self, name)}")
        check_runnable(parse_target(self.target))
        return parse_cases(self.operators, self.shapes)


@dataclass
class KernelRow:
    """Figures of one operator and shape; times are medians per call in microseconds.

    Attributes:
        us: ours, with quantizing and packing the activations, scales and bias.
        arithmetic_us: the inner loop alone; 0 where it is not known (8-bit weights).
        roof_us: the larger of that and reading the weights alone.
        roof: which of the two it is, "arithmetic" or "memory".
        peers_us: PyTorch's times by engine.
    """

    operator: str
    m: int
    n: int
    k: int
    isa: str
    threads: int
    us: float
    weight_bytes: int
    gmac_per_s: float
    weight_gb_per_s: float
    arithmetic_us: float
    read_us: float
    roof_us: float
    roof: str
    share_of_roof: float
    peers_us: dict[str, float] = field(default_factory=dict)

    def speedup(self, peer: str) -> float | None:
        """How many times faster than a peer; None if that was not measured."""
        return self.peers_us[peer] / self.us if peer in self.peers_us else None


def run(settings: KernelSettings, progress: Progress = lambda _text, _share: None) -> dict[str, Any]:
    """Measure every case; `progress` is told what is going on and which share of the work is done.

    Returns:
        {"conditions": ..., "settings": ..., "rows": [...]}, ready for JSON.
    """
    cases = settings.check()
    spec = parse_target(settings.target)
    rows = []
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(closing(_engine(name, settings)))
            for name in ("tbt", *(PEERS if settings.peers else ()))
        }
        for index, case in enumerate(cases):
            progress(f"measuring {case}", index / len(cases))
            rows.append(_row(case, engines, settings, spec.mcpu))
    return {
        "conditions": {**conditions(), "target": spec.mcpu, "target_vector_bits": spec.isa.vector_bits},
        "settings": asdict(settings),
        "rows": [asdict(row) for row in rows],
    }


def _engine(name: str, settings: KernelSettings) -> Served:
    return Served(name, "kernel_worker", name, settings.target, threads=settings.threads)


def _row(case: KernelCase, engines: dict[str, Served], settings: KernelSettings, isa: str) -> KernelRow:
    seconds: dict[str, list[float]] = {}
    size = 0

    def ask(key: str, engine: str, question: dict[str, Any]) -> int:
        answered = engines[engine].ask(question)
        seconds.setdefault(key, []).extend(answered["seconds"])
        return int(answered["bytes"])

    roof_macs = 0
    for _ in range(settings.rounds):
        for name in engines:
            measured = ask(name, name, {"case": asdict(case)})
            size = measured if name == "tbt" else size
        ask("read", "tbt", {"read": size})
        if case.weight.planes:
            # The sizes do not matter to the arithmetic; one question serves all shapes.
            same = KernelCase(case.operator, 1, 1, 1)
            roof_macs = ask("roof", "tbt", {"roof": asdict(same)})
    us = {name: _US * median(samples) for name, samples in seconds.items()}
    arithmetic = us["roof"] * case.macs / roof_macs / settings.threads if roof_macs else 0.0
    roof = max(arithmetic, us["read"])
    return KernelRow(
        **asdict(case),
        isa=isa,
        threads=settings.threads,
        us=us["tbt"],
        weight_bytes=size,
        gmac_per_s=case.macs / us["tbt"] / 1e3,
        weight_gb_per_s=size / us["tbt"] / 1e3,
        arithmetic_us=arithmetic,
        read_us=us["read"],
        roof_us=roof,
        roof="arithmetic" if arithmetic > us["read"] else "memory",
        share_of_roof=roof / us["tbt"],
        peers_us={name: us[name] for name in PEERS if name in us},
    )
