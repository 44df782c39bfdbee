"""The whole pipeline: fused graphs as text, and equal, bit for bit, to the frozen model run in torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_text import GOLDEN, check_text
from lowering_tools import calls, export, frozen, run
from models import DECODERS, FAMILIES, MLP, SEQ2SEQ, VOCABULARY, AttentionBlock, batch
from torch import Tensor

import tbt_compile
from tbt_compile.adapters import adapter_for, decoder_units
from tbt_compile.adapters.seq2seq_units import Encoder, FirstStep, Step
from tbt_compile.passes.base import graph_text
from tbt_compile.passes.lowering import LoweringContext, lowering_pipeline


@pytest.mark.parametrize(
    ("name", "module", "x"),
    [("mlp", MLP(), torch.randn(3, 8)), ("attention", AttentionBlock(), torch.randn(2, 5, 16))],
)
def test_golden_graphs_of_plain_modules(name: str, module: torch.nn.Module, x: Tensor) -> None:
    unit = export(frozen(module, "2-1-2", x), x)
    expected = run(unit, x)
    check_text(f"frozen_{name}", graph_text(unit.program.graph_module))
    lowering_pipeline().run(unit)
    check_text(f"lowered_{name}", graph_text(unit.program.graph_module))
    assert torch.equal(run(unit, x)[0], expected[0])


def test_order_and_contracts() -> None:
    passes = lowering_pipeline().passes
    assert [step.name for step in passes] == [
        "clean-up",
        "fuse-linear",
        "fuse-hadamard",
        "fuse-linear-activation",
        "fuse-embedding",
        "fuse-attention-products",
        "fold-repeat-kv",
        "fuse-masked-softmax",
        "fuse-attention",
        "fuse-add-layer-norm",
        "fuse-rms-norm",
        "pack-kv-cache",
        "fold-head-transposes",
        "check-fused",
    ]
    assert all("Needs:" in str(type(step).__doc__) for step in passes)
    assert all("Leaves" in str(type(step).__doc__) for step in passes)
    assert {path.stem for path in (GOLDEN / "passes").iterdir()} == {step.name for step in passes}


@dataclass(frozen=True)
class Lowered:
    """A frozen model and its units after the pipeline."""

    module: Any
    units: dict[str, LoweringContext]
    layers: int


def lowered(family: str, recipe: str, layers: int) -> Lowered:
    model = FAMILIES[family](layers=layers)
    tbt_compile.prepare(model, recipe).train()
    model(**batch(model))
    module = tbt_compile.freeze(model).module
    exported = adapter_for(module).export_units(module)
    for unit in exported.contexts:
        lowering_pipeline().run(unit)
    return Lowered(module, {unit.name: unit for unit in exported.contexts}, exported.settings["layers"])


@pytest.fixture(scope="module")
def two_layers() -> Lowered:
    torch.manual_seed(0)
    return lowered("bart", "2-2-2", 2)


def check_units(case: Lowered, bits: int) -> None:
    """Run both on a batch of other sizes than the units were captured with, for four steps."""
    module, units, layers = case.module, case.units, case.layers
    given = batch(module, rows=3, source=11)
    ids, mask, prefix = given["input_ids"], given["attention_mask"], torch.randint(3, VOCABULARY, (3, 2))
    with torch.no_grad():
        hidden = Encoder(module)(ids, mask)
        (got,) = run(units["encoder"], ids, mask)
        assert torch.equal(got, hidden)
        logits, *caches = FirstStep(module)(prefix, hidden, mask)
        got, *packed = run(units["first_step"], prefix, hidden, mask)
        assert torch.equal(got, logits)
        cross, packed_cross = caches[2 * layers :], packed[2 * layers :]
        for token in torch.randint(3, VOCABULARY, (3, 4)).split(1, dim=1):
            logits, *caches = Step(module)(token, mask, [*caches[: 2 * layers], *cross])
            got, *packed = run(units["step"], token, mask, *packed[: 2 * layers], *packed_cross)
            assert torch.equal(got, logits)
    assert {tensor.dtype for tensor in packed} == {torch.int8 if bits == 8 else torch.int64}
    assert sum(t.nbytes for t in packed) < 0.6 * sum(t.nbytes for t in caches)


def test_fused_units_equal_the_frozen_model(two_layers: Lowered) -> None:
    check_units(two_layers, 2)


@pytest.mark.parametrize("recipe", ["1-1-1", "2-2-8", "8-1-2"])
def test_fused_units_of_other_recipes(recipe: str) -> None:
    check_units(lowered("bart", recipe, 1), int(recipe[-1]))


@pytest.mark.parametrize("family", [family for family in SEQ2SEQ if family != "bart"])
def test_fused_units_of_other_families(family: str) -> None:
    check_units(lowered(family, "2-2-2", 1), 2)


@pytest.mark.parametrize("family", DECODERS)
def test_fused_units_of_decoder_only_models(family: str) -> None:
    torch.manual_seed(0)
    case = lowered(family, "2-2-2", 1)
    module, units = case.module, case.units
    ids, mask = torch.randint(3, VOCABULARY, (3, 11)), torch.ones(3, 11, dtype=torch.int64)
    mask[1, :3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits, *caches = decoder_units.FirstStep(module)(ids, mask, positions)
        got, *packed = run(units["first_step"], ids, mask, positions)
        assert torch.equal(got, logits)
        for token in torch.randint(3, VOCABULARY, (3, 4)).split(1, dim=1):
            mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.int64)], 1)
            positions = mask.sum(1, keepdim=True) - 1
            logits, *caches = decoder_units.Step(module)(token, mask, positions, caches)
            got, *packed = run(units["step"], token, mask, positions, *packed)
            assert torch.equal(got, logits)
    assert {tensor.dtype for tensor in packed} == {torch.int64}
    assert [tensor.shape[1] for tensor in packed] == [tensor.shape[1] for tensor in caches]


def test_what_bart_is_made_of(two_layers: Lowered) -> None:
    units = two_layers.units
    for unit, linear, products, norms in (
        (units["encoder"], 2 * 6, 2, 2 * 2 + 1),
        (units["first_step"], 2 * 10 + 1, 4, 2 * 3),
        (units["step"], 2 * 8 + 1, 4, 2 * 3),  # keys and values of cross-attention are there already
    ):
        names = calls(unit)
        assert names.count("bit_linear") == linear
        assert names.count("bit_embedding") == 1
        assert names.count("add_layer_norm") == norms
        assert names.count("attention") == products
        assert not {"quantize", "unpack", "matmul", "linear", "softmax", "dropout"} & set(names)
    assert calls(units["step"]).count("append_values") == 2


def test_every_phase_is_dumped(tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    lowering_pipeline().run(export(frozen(MLP(), "2-2-2", x), x), tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.unit.txt"))
    assert names[0] == "00_clean-up.unit.txt"
    assert len(names) == len(lowering_pipeline().passes)
    assert "bit_linear" not in (tmp_path / names[0]).read_text()
    assert "bit_linear" in (tmp_path / "01_fuse-linear.unit.txt").read_text()
    assert (tmp_path / "01_fuse-linear.txt").read_text().startswith("# fuse-linear: 2 changes.")
