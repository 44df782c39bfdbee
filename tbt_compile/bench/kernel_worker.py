"""The worker process that times the kernels of one engine.

    python -m tbt_compile.bench.kernel_worker ENGINE TARGET < questions

A question is {"case": CASE} for a kernel, {"roof": CASE} for its inner loop without memory traffic, or
{"read": BYTES} for reading memory. The answer has the seconds of several calls. Kernels are built once and
kept for repeated questions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from tbt_compile.bench.engines.torch_int8 import quantize_linears
from tbt_compile.bench.kernel_case import KernelCase
from tbt_compile.bench.worker import answer, reserve_stdout

SECONDS = 0.02
"""Time budget of an answer; a single call may take longer."""
_BATCHES = 5

Prepared = tuple[Callable[[], Any], int]


def main() -> None:
    """Answer questions until standard input ends."""
    with reserve_stdout() as answers:
        prepare = _ENGINES[sys.argv[1]]
        for line in sys.stdin:
            call, size = prepare(line, sys.argv[2])
            answer(answers, {"seconds": timed(call), "bytes": size})


def timed(call: Callable[[], Any], seconds: float = SECONDS) -> list[float]:
    """Several samples of the seconds per call; short calls are timed in batches."""
    call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    count = max(1, int(seconds / _BATCHES / once))
    samples = []
    for _ in range(_BATCHES):
        start = time.perf_counter()
        for _ in range(count):
            call()
        samples.append((time.perf_counter() - start) / count)
    return samples


@cache
def _ours(question: str, target: str) -> Prepared:
    from tbt_compile.codegen.target.parse import parse_target
    from tbt_compile.codegen.tools import standalone
    from tbt_compile.codegen.tools.roofline import RoofSpec

    asked, spec = json.loads(question), parse_target(target)
    if "read" in asked:
        return standalone.reading(asked["read"], spec), asked["read"]
    case = KernelCase(**asked.get("roof", asked.get("case")))
    if "roof" in asked:
        roof = RoofSpec(case.activation, case.weight, 4096, spec.isa)
        return standalone.arithmetic(roof, spec), roof.macs
    return standalone.random_linear(case.spec(spec.isa), spec, case.m)


@cache
def _torch_float(question: str, _target: str) -> Prepared:
    import torch

    case = KernelCase(**json.loads(question)["case"])
    layer = torch.nn.Linear(case.k, case.n)
    return _torch_call(layer, case), 4 * case.n * case.k


@cache
def _torch_int8(question: str, _target: str) -> Prepared:
    import torch

    case = KernelCase(**json.loads(question)["case"])
    layer = quantize_linears(torch.nn.Sequential(torch.nn.Linear(case.k, case.n)))
    return _torch_call(layer, case), case.n * case.k


def _torch_call(layer: Any, case: KernelCase) -> Callable[[], Any]:
    import torch

    torch.set_grad_enabled(False)
    x = torch.randn(case.m, case.k)
    return lambda: layer(x)


_ENGINES = {"tbt": _ours, "torch fp32": _torch_float, "torch int8 dynamic": _torch_int8}

if __name__ == "__main__":
    main()
