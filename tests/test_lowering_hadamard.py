"""The whole path with rotated inputs: train, freeze, save, compile, generate; the bits of eager code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import eager_tokens, prompts, sources
from kernel_tools import runnable
from models import PAD, VOCABULARY, bart, llama
from torch import nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.inspection.layers import Summary
from tbt_compile.quantizers.hadamard import RotatedActivationQuantizer
from tbt_compile.report.collect import collect

NEW_TOKENS = {"max_new_tokens": 8, "min_new_tokens": 4}
# The inner size of the feed-forward layers leaves blocks of 16, and words that are not full.
CASES = {
    "bart": (bart, {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}, ("*.out_proj", "*.fc2"), 5),
    "llama": (llama, {"intermediate_size": 48}, ("*.o_proj", "*.down_proj"), 2),
}
NOTATIONS = ("2-2-2", "1-1-8")


def trained(name: str, notation: str) -> tuple[PreTrainedModel, Recipe]:
    """A model after three steps of training, in which every rotated layer gets a gradient."""
    make, options, patterns, rotated = CASES[name]
    recipe = Recipe.parse(notation, hadamard=patterns)
    model: Any = tbt_compile.prepare(make(layers=1, **options), recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(3, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        layers = [each for each in model.modules() if _is_rotated(each)]
        assert len(layers) == rotated
        assert all(bool(each.weight.grad.abs().sum() > 0) for each in layers)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert all(np.isfinite(losses)) and losses[0] != losses[-1]
    return model.eval(), recipe


def _is_rotated(module: nn.Module) -> bool:
    return isinstance(getattr(module, "input_quantizer", None), RotatedActivationQuantizer)


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("name", CASES)
def test_compiled_tokens_and_logits_are_those_of_the_frozen_model(
    name: str, notation: str, tmp_path: Path
) -> None:
    model, recipe = trained(name, notation)
    frozen = tbt_compile.freeze(model)
    two_parts = model.config.is_encoder_decoder
    ids, mask = sources(PAD) if two_parts else prompts(PAD)
    frozen.save(tmp_path / "packed")
    loaded = tbt_compile.load(tmp_path / "packed")
    assert loaded.recipe == recipe
    tbt_compile.lower(loaded).save(tmp_path / "compiled")
    compiled: Any = tbt_compile.load(tmp_path / "compiled")
    for beams in (1, 3):
        expected = eager_tokens(frozen, ids, mask, num_beams=beams, **NEW_TOKENS)
        assert len({tuple(row) for row in expected[:, -4:].tolist()}) > 1
        assert np.array_equal(compiled.generate(ids, mask, num_beams=beams, **NEW_TOKENS), expected)
        assert np.array_equal(eager_tokens(loaded, ids, mask, num_beams=beams, **NEW_TOKENS), expected)
    _assert_equal_logits(frozen, compiled, ids, mask, two_parts)
    (tmp_path / "hub").mkdir()
    model.save_pretrained(tmp_path / "hub")
    again = tbt_compile.freeze(type(model).from_pretrained(tmp_path / "hub"))
    assert np.array_equal(eager_tokens(again, ids, mask, num_beams=3, **NEW_TOKENS), expected)


def _assert_equal_logits(frozen: Any, compiled: Any, ids: Any, mask: Any, two_parts: bool) -> None:
    """Of every step, on tokens that were not generated; alone too, where few rows have other kernels."""
    decoder = np.random.default_rng(4).integers(3, VOCABULARY, (len(ids), 3))
    for rows in (slice(None), slice(0, 1)):
        one, seen, more = ids[rows], mask[rows], decoder[rows]
        if two_parts:
            given = {"input_ids": one, "attention_mask": seen, "decoder_input_ids": more}
            fed, first = more, 0
        else:
            given = {"input_ids": np.hstack([one, more])}
            given["attention_mask"] = np.hstack([seen, np.ones_like(more)])
            given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clip(0)
            fed, first = more, one.shape[1] - 1
        expected = frozen(**{name: torch.tensor(value) for name, value in given.items()}).logits.numpy()
        session = compiled.session(one, seen)
        found = [] if two_parts else [session.step(one).copy()]
        found += [session.step(fed[:, step : step + 1]).copy() for step in range(fed.shape[1])]
        for step, logits in enumerate(found):
            assert np.array_equal(logits, expected[:, first + step])


@pytest.mark.parametrize("cpu", runnable("x86-64", "haswell", "skylake-avx512")[1:])
def test_other_instruction_sets_have_the_same_bits(cpu: str, tmp_path: Path) -> None:
    frozen = tbt_compile.freeze(trained("llama", "1-1-1" if cpu == "haswell" else "2-2-2")[0])
    ids, mask = prompts(PAD)
    tbt_compile.lower(frozen, target=cpu).save(tmp_path / "compiled")
    _assert_equal_logits(frozen, tbt_compile.load(tmp_path / "compiled"), ids, mask, False)


@pytest.mark.parametrize("name", CASES)
def test_every_node_is_verified_and_the_report_says_what_is_rotated(name: str) -> None:
    model, _ = trained(name, "2-2-2")
    frozen = tbt_compile.freeze(model)
    verification = tbt_compile.verify(frozen, tbt_compile.lower(frozen))
    checks = [check for check in verification.nodes if check.operator == "tbt::bit_linear"]
    assert checks and not any(check.differing for check in verification.nodes)
    assert all(check.codes for check in checks)
    report = collect(model)
    reasons = [each.why for operation in report.graphs.after.operations for each in operation.quantizers]
    shown = [why for why in reasons if "Hadamard blocks of 16 mix signs" in why]
    assert len(shown) == (2 if name == "bart" else 1)
    summary: Summary = tbt_compile.summary(frozen)
    assert "Hadamard blocks of 16" in str(summary)
