"""The kernel benchmark: linear layers against PyTorch and against the roofline of the machine.

Each engine runs in a separate process. The processes take turns in every round of a case, which spreads noise
on the machine over all engines.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from tbt_compile.bench.conditions import conditions
from tbt_compile.bench.kernel_case import DEFAULT_OPERATORS, DEFAULT_SHAPES, KernelCase, parse_cases
from tbt_compile.bench.worker_process import WorkerProcess
from tbt_compile.codegen.target.host import check_runnable
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.errors import TbtError
from tbt_compile.progress import Progress

PEERS = ("torch fp32", "torch int8 dynamic")
_US = 1e6


@dataclass(frozen=True)
class KernelSettings:
    """Settings of the kernel benchmark.

    Attributes:
        operators: "activation*weight", such as "ternary012*ternary".
        shapes: "MxNxK": rows, outputs, inputs.
        threads: of every engine.
        rounds: turns of every engine; figures are medians over all rounds.
        target: CPU to compile for; it has to run on this machine.
        peers: measure PyTorch too.
    """

    operators: tuple[str, ...] = DEFAULT_OPERATORS
    shapes: tuple[str, ...] = DEFAULT_SHAPES
    threads: int = 1
    rounds: int = 5
    target: str = "host"
    peers: bool = True

    def check(self) -> list[KernelCase]:
        """Check the settings.

        Returns:
            The cases to measure.

        Raises:
            TbtError: a setting is invalid.
        """
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise TbtError(f"{name} must be at least 1, not {getattr(self, name)}")
        check_runnable(parse_target(self.target))
        return parse_cases(self.operators, self.shapes)


@dataclass
class KernelRow:
    """Figures of one operator and shape; times are medians per call in microseconds.

    Attributes:
        operator, m, n, k: see `KernelCase`.
        isa: the CPU compiled for.
        threads: of every engine.
        us: our time, including quantizing and packing the activations, scales and bias.
        weight_bytes: of the packed weights.
        gmac_per_s: throughput in 10^9 multiply-accumulates per second.
        weight_gb_per_s: weights read, in GB per second.
        arithmetic_us: time of the inner loop without memory traffic; 0 if unknown (8-bit weights).
        read_us: time to read the weights.
        roof_us: the roofline, the larger of `arithmetic_us` and `read_us`.
        roof: which of them it is, "arithmetic" or "memory".
        share_of_roof: `roof_us` / `us`.
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
        """The speedup over a peer; None if the peer was not measured."""
        return self.peers_us[peer] / self.us if peer in self.peers_us else None


def run(settings: KernelSettings, progress: Progress = lambda _text, _share: None) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        settings: what to measure.
        progress: called with a description and the share done, from 0 to 1.

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


def _engine(name: str, settings: KernelSettings) -> WorkerProcess:
    return WorkerProcess(name, "kernel_worker", name, settings.target, threads=settings.threads)


def _row(
    case: KernelCase, engines: dict[str, WorkerProcess], settings: KernelSettings, isa: str
) -> KernelRow:
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
            # The inner loop does not depend on the sizes, so all shapes share one question.
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
