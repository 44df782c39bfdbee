"""Lowering: every family computes eager tokens when compiled; targets; what cannot be lowered."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled_tools import assert_rows_do_not_depend_on_the_batch, eager_tokens, sources, trained
from models import MLP, SEQ2SEQ, bart
from once import only
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.codegen.target.host import host_target
from tbt_compile.errors import PlanError, TargetError

NEW_TOKENS = {"max_new_tokens": 14, "min_new_tokens": 5}
OTHER = "llvm -mcpu=cortex-a72"
Pair = tuple[PreTrainedModel, CompiledModel]


@dataclass(frozen=True)
class Lowered:
    """BART, compiled from a dict as target and for another architecture, with all that lowering tells."""

    model: PreTrainedModel
    compiled: CompiledModel
    log: str
    dump: Path


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    model, dump = trained(bart(layers=1), "2-2-2"), tmp_path_factory.mktemp("dump")
    handler, logger = _Lines(), logging.getLogger("tbt_compile.lowering")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    compiled = tbt_compile.lower(model, [host_target().as_dict(), OTHER], num_threads=1, dump=dump)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    return Lowered(model, compiled, "\n".join(handler.lines), dump / host_target().mcpu)


@pytest.fixture(scope="module", params=SEQ2SEQ)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A prepared model of each family, and the compiled one."""
    if request.param == "bart":
        made = request.getfixturevalue("lowered")
        return made.model, made.compiled
    # T5's layers share the relative positions of the first.
    model = trained(SEQ2SEQ[request.param](layers=2 if request.param == "t5" else 1), "2-2-2")
    return model, tbt_compile.lower(model)


@pytest.mark.parametrize("beams", [1, 4])
def test_tokens_equal_those_of_the_eager_model(pair: Pair, beams: int) -> None:
    model, compiled = pair
    ids, mask = sources(model.config.pad_token_id)
    expected = eager_tokens(model, ids, mask, num_beams=beams, **NEW_TOKENS)
    assert len({tuple(row) for row in expected.tolist()}) == len(ids), "outputs have to differ between inputs"
    got = compiled.generate(ids, mask, num_beams=beams, **NEW_TOKENS)
    assert got.dtype == np.int64
    assert np.array_equal(got, expected)


def test_logits_are_close_to_those_of_the_eager_model(pair: Pair) -> None:
    model, compiled = pair
    ids, mask = sources(model.config.pad_token_id)
    decoder = ids[:, :4]
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            decoder_input_ids=torch.tensor(decoder),
        ).logits
    session = compiled.session(ids, mask)
    np.testing.assert_allclose(session.step(decoder[:, :2]), expected[:, 1], rtol=1e-4, atol=1e-4)
    for column in (2, 3):
        np.testing.assert_allclose(
            session.step(decoder[:, column : column + 1]), expected[:, column], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("beams", [1, 3])
def test_a_row_depends_on_nothing_but_itself(pair: Pair, beams: int) -> None:
    model, compiled = pair
    assert_rows_do_not_depend_on_the_batch(compiled, model.config.pad_token_id, num_beams=beams, **NEW_TOKENS)


def test_another_architecture(lowered: Lowered, tmp_path: Path) -> None:
    compiled = only(lowered.compiled, "cortex-a72")
    assert (compiled.target.mcpu, compiled.target.arch) == ("cortex-a72", "aarch64")
    assert compiled.label == "BartForConditionalGeneration at 2-2-2, compiled for cortex-a72 (aarch64, Linux)"
    message = (
        r"compiled for cortex-a72 \(aarch64, Linux\) and this machine is x86_64, Linux; "
        "compile it again with target 'host'"
    )
    ids, mask = sources(1)
    with pytest.raises(TargetError, match=message):
        compiled.generate(ids, mask)
    folder = compiled.save(tmp_path / "arm")
    head = (folder / "model.so").read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == 183
    with pytest.raises(TargetError, match=message):
        tbt_compile.load(folder)


def test_a_target_as_a_dict(lowered: Lowered) -> None:
    assert lowered.compiled.target == host_target()
    assert lowered.compiled.num_threads == 1
    assert lowered.compiled.recipe == tbt_compile.Recipe.parse("2-2-2")


def test_the_work_is_logged(lowered: Lowered) -> None:
    assert f"compiled BartForConditionalGeneration for {host_target().mcpu}" in lowered.log
    kernels = lowered.compiled.kernels
    assert all(kernel in lowered.log for kernel in kernels)
    for name in ("linear_", "embedding_", "attention_", "pack_keys_", "pack_values_", "append_values_"):
        assert any(kernel.startswith(name) for kernel in kernels), name


def test_every_phase_is_dumped(lowered: Lowered) -> None:
    texts = {path.name: path.read_text() for path in lowered.dump.rglob("*.txt")}
    assert {"00_clean-up.encoder.txt", "01_fuse-linear.first_step.txt", "relax.txt"} <= texts.keys()
    assert "add_layer_norm" not in texts["00_clean-up.step.txt"]
    assert "add_layer_norm" in texts["09_fuse-add-layer-norm.step.txt"]
    assert all(f"def {unit}(" in texts["relax.txt"] for unit in ("encoder", "first_step", "step"))


def test_an_unknown_cpu_is_refused_with_near_matches() -> None:
    with pytest.raises(TargetError, match=r"cortex-a27.*Did you mean .*cortex-a72"):
        tbt_compile.lower(MLP(), "llvm -mcpu=cortex-a27")


def test_a_model_that_is_not_prepared_or_was_never_run() -> None:
    with pytest.raises(PlanError, match="has no quantizers: call tbt_compile.prepare"):
        tbt_compile.lower(bart(layers=1))
    with pytest.raises(PlanError, match="activation scales were never set"):
        tbt_compile.lower(tbt_compile.prepare(bart(layers=1), "2-2-2"))


@pytest.mark.parametrize("recipe", ["2-2-32", "1-1-32", "8-8-32"])
def test_weights_alone_are_quantized(recipe: str) -> None:
    model = trained(bart(layers=1), recipe)
    frozen = tbt_compile.freeze(model)
    ids = torch.randint(3, model.config.vocab_size, (3, 7))
    expected = frozen.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6)
    assert np.array_equal(tbt_compile.lower(frozen).generate(ids, max_new_tokens=6), expected)
