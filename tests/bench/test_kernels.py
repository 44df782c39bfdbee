"""The kernel benchmark: what is measured, how figures follow from it, and what is refused."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from tbt_compile.bench import kernel_worker, kernels, roofline_plot
from tbt_compile.bench.kernel_case import KernelCase, parse_cases
from tbt_compile.bench.kernels import KernelRow, KernelSettings
from tbt_compile.encoding import Encoding
from tbt_compile.errors import TargetError, TbtError

OTHER_CPU = "haswell" if platform.machine() == "aarch64" else "cortex-a72"
SMALL = KernelSettings(operators=("ternary012*ternary", "int8*int8"), shapes=("2x48x130",), rounds=2)


class FakeWorker:
    """Ours takes 2 us, fp32 20 us, int8 8 us; the arithmetic alone 1 ns per 64 MACs, reading 1 us."""

    def __init__(self, name: str, module: str, *arguments: str, threads: int) -> None:
        self.name = name

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if "read" in question:
            return {"seconds": [1e-6, 1e-6, 5.0], "bytes": question["read"]}
        if "roof" in question:
            return {"seconds": [1e-9], "bytes": 64}
        seconds = {"tbt": 2e-6, "torch fp32": 20e-6, "torch int8 dynamic": 8e-6}[self.name]
        return {"seconds": [seconds, seconds, 1.0], "bytes": 1000}

    def close(self) -> None:
        pass


def test_figures_follow_from_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WorkerProcess", FakeWorker)
    settings = KernelSettings(operators=("binary*binary",), shapes=("4x64x640", "1x64x64"), threads=2)
    large, small = (KernelRow(**row) for row in kernels.run(settings)["rows"])
    assert large.us == pytest.approx(2)
    assert large.gmac_per_s == pytest.approx(4 * 64 * 640 / 2000)
    assert large.weight_gb_per_s == pytest.approx(0.5)
    assert large.speedup("torch fp32") == pytest.approx(10)
    assert large.speedup("torch int8 dynamic") == pytest.approx(4)
    # Arithmetic is shared out among the threads; the reading was measured with all of them.
    assert large.arithmetic_us == pytest.approx(4 * 64 * 640 / 64 / 1000 / 2)
    assert (large.roof, large.share_of_roof) == ("arithmetic", pytest.approx(large.arithmetic_us / 2))
    assert (small.roof, small.share_of_roof) == ("memory", pytest.approx(0.5))


def test_real_processes_measure_and_plot(tmp_path: Path) -> None:
    result = kernels.run(SMALL)
    json.dumps(result)
    assert result["conditions"]["target"]
    for row in (KernelRow(**values) for values in result["rows"]):
        assert row.us > 0
        assert set(row.peers_us) == set(kernels.PEERS)
        assert row.speedup("no such peer") is None
    ternary, whole = result["rows"]
    assert ternary["arithmetic_us"] > 0
    assert whole["arithmetic_us"] == 0
    pytest.importorskip("matplotlib", reason="the plot needs the 'report' extra")
    roofline_plot.plot(result, tmp_path / "roof.png")
    assert [path.name for path in tmp_path.iterdir()] == ["roof.png"]
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TbtError, match=r"tbt-compile\[report\]"):
        roofline_plot.require_matplotlib()


def test_short_calls_are_timed_in_batches() -> None:
    calls: list[int] = []
    samples = kernel_worker.timed(lambda: calls.append(1), seconds=0.001)
    assert len(samples) == 5
    assert len(calls) > 50


def test_cases_are_every_operator_with_every_shape() -> None:
    cases = parse_cases(("binary*ternary", "int8*int8"), ("1x2x3", "4x5x6"))
    assert [str(case) for case in cases[:3]] == [
        "binary*ternary 1x2x3",
        "int8*int8 1x2x3",
        "binary*ternary 4x5x6",
    ]
    assert cases[0].activation is Encoding.BINARY
    assert cases[0].weight is Encoding.TERNARY
    assert KernelCase("binary*binary", 2, 3, 4).macs == 24


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"operators": ("ternary*binry",)}, TbtError, "ternary\\*binary"),
        ({"shapes": ("128x3072",)}, TbtError, "expected MxNxK"),
        ({"shapes": ("1x0x5",)}, TbtError, "expected MxNxK"),
        ({"threads": 0}, TbtError, "threads must be at least 1"),
        ({"rounds": 0}, TbtError, "rounds must be at least 1"),
        ({"target": OTHER_CPU}, TargetError, "this machine is"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        kernels.run(KernelSettings(**{**SMALL.__dict__, **change}))
