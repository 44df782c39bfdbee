"""Models compiled for several CPUs: one folder, weights stored once, the right library chosen."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tbt_compile
from tbt_compile import CompiledModule
from tbt_compile.codegen.target import host
from tbt_compile.codegen.target.host import best_target
from tbt_compile.codegen.target.parse import parse_target, parse_targets
from tbt_compile.errors import TargetError
from tbt_compile.runtime.builds import add_tensors
from tbt_compile.storage import model_folder

LOCAL = {"x86_64": "x86-64-v3", "aarch64": "cortex-a53"}[host.host_arch()]
OTHER = {"x86_64": "cortex-a72", "aarch64": "haswell"}[host.host_arch()]
HERE = parse_target("host").mcpu
X = np.random.default_rng(1).standard_normal((5, 70), dtype=np.float32)


def lowered(recipe: str, targets: list[str]) -> CompiledModule:
    """Two linear layers."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(70, 33), nn.GELU(), nn.Linear(33, 20))
    x = torch.from_numpy(X)
    prepared = tbt_compile.prepare(module, recipe, (x,))
    prepared(x)  # which sets the scales of the activations
    compiled = tbt_compile.lower(prepared, targets)
    assert isinstance(compiled, CompiledModule)
    return compiled


@pytest.fixture(scope="module")
def model() -> CompiledModule:
    return lowered("2-2-8", [OTHER, LOCAL, "host"])


@pytest.fixture
def folder(model: CompiledModule, tmp_path: Path) -> Path:
    return model.save(tmp_path / "fat")


def pretend(monkeypatch: pytest.MonkeyPatch, cpu: str) -> None:
    """Have this machine be another one."""
    spec = parse_target(cpu)
    monkeypatch.setattr(host, "this_machine", lambda: (spec.arch, spec.system))
    monkeypatch.setattr(host, "host_features", lambda: spec.features)
    monkeypatch.setattr(host, "host_target", lambda: spec)


def test_the_best_library_is_used_and_named(
    folder: Path, model: CompiledModule, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tbt_compile"):
        best = tbt_compile.load(folder)
    assert best.target == model.target == parse_target("host")
    assert f"compiled for {HERE} " in str(best) and f"chosen from {OTHER} " in str(best)
    assert best.label in caplog.text
    expected = best(X)
    pretend(monkeypatch, LOCAL)
    plain = tbt_compile.load(folder)
    assert plain.target == parse_target(LOCAL)
    assert plain.description["features"] == sorted(parse_target(LOCAL).features)
    np.testing.assert_allclose(plain(X), expected, rtol=1e-5, atol=1e-6)


def test_saving_what_was_loaded_keeps_every_library(
    folder: Path, model: CompiledModule, tmp_path: Path
) -> None:
    again = tbt_compile.load(folder)
    shutil.rmtree(folder)
    copy = again.save(tmp_path / "copy")
    manifest = model_folder.read_manifest(copy)
    assert [build["library"] for build in manifest["builds"]] == [
        f"model-{cpu}.so" for cpu in (OTHER, LOCAL, HERE)
    ]
    assert {target.mcpu for target in tbt_compile.load(copy).targets} == {OTHER, LOCAL, HERE}
    sizes = model.sizes()
    assert (
        0
        < sizes["shared"]
        < sizes["weights"]
        == sum(array.nbytes for array in model_folder.read_tensors(copy, manifest).values())
    )


def test_cpus_that_read_the_same_layout_share_everything() -> None:
    sizes = lowered("1-1-1", ["cortex-a72", "cortex-a76"]).sizes()
    assert sizes["shared"] == sizes["weights"] > 0


def test_equal_tensors_are_stored_once() -> None:
    one, other = np.arange(6.0), np.arange(6)
    stored: dict[str, np.ndarray] = {}
    assert add_tensors(stored, {"a": one, "b": other}) == {"a": "a", "b": "b"}
    assert add_tensors(stored, {"a": one.copy(), "b": other + 1}) == {"a": "a", "b": "b@2"}
    assert add_tensors(stored, {"a": one.reshape(2, 3), "b": other + 1}) == {"a": "a@2", "b": "b@2"}
    assert add_tensors(stored, {"b": other.astype(np.int32)}) == {"b": "b@3"}
    assert list(stored) == ["a", "b", "b@2", "a@2", "b@3"]


@pytest.mark.parametrize(
    ("machine", "cpus", "chosen"),
    [
        ("cortex-a72", "cortex-a53 cortex-a72 cortex-a76", "cortex-a53"),  # the first of equals
        ("cortex-a72", "cortex-a72 cortex-a53 haswell", "cortex-a72"),
        ("cortex-a76", "haswell cortex-a72 cortex-a76 neoverse-v1", "cortex-a76"),
        ("neoverse-v1", "cortex-a72 neoverse-v1 cortex-a76", "neoverse-v1"),
        ("znver5", "x86-64 haswell znver4 skylake-avx512 alderlake", "znver4"),
        ("sapphirerapids", "alderlake skylake-avx512 haswell", "skylake-avx512"),
        ("haswell", "znver4 haswell x86-64 cortex-a72", "haswell"),
    ],
)
def test_the_choice(monkeypatch: pytest.MonkeyPatch, machine: str, cpus: str, chosen: str) -> None:
    specs = [parse_target(cpu) for cpu in cpus.split()]
    pretend(monkeypatch, machine)
    assert specs[best_target(specs)].mcpu == chosen


def test_what_every_library_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cortex-a72")
    specs = parse_targets(["cortex-a76", "haswell", "ampere1b"])
    with pytest.raises(
        TargetError,
        match=r"cortex-a76 and ampere1b, and this machine \(cortex-a72\) lacks dotprod, .* for cortex-a76; "
        r"bf16, .* for ampere1b; compile it again",
    ):
        best_target(specs)
    with pytest.raises(
        TargetError, match=r"for haswell \(x86_64, Linux\), znver4 .* and this machine is aarch64, Linux"
    ):
        best_target(parse_targets(["haswell", "znver4"]))


@pytest.mark.parametrize("targets", [[], ["cortex-a72", "raspberrypi4"], ["haswell", "llvm -mcpu=haswell"]])
def test_lists_that_make_no_sense(targets: list[str]) -> None:
    with pytest.raises(TargetError, match="name every CPU once"):
        parse_targets(targets)
