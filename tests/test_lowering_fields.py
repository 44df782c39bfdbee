"""The whole path with fields from other papers: train, freeze, save, compile; the bits of eager code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import eager_tokens, prompts, sources
from models import PAD, VOCABULARY, bart, llama

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.quantizers import ActivationQuantizer

NEW_TOKENS = {"max_new_tokens": 8, "min_new_tokens": 4}
FIELDS: dict[str, dict[str, Any]] = {
    "trust": {"ste": "trust", "activation_ste": "trust"},
    "learned rows": {"weight_method": "learned"},
    "offset": {"activation_offset": True},
    "dead zone": {"dead_zone": 0.05},
    "together": {
        "ste": "trust",
        "weight_method": "learned",
        "activation_offset": True,
        "dead_zone": 0.05,
        "hadamard": ("*.out_proj", "*.fc2", "*.o_proj", "*.down_proj"),
    },
}


@pytest.mark.parametrize("make", [bart, llama], ids=["bart", "llama"])
@pytest.mark.parametrize("name", FIELDS)
def test_compiled_tokens_are_those_of_the_frozen_model(make: Any, name: str, tmp_path: Path) -> None:
    fields = dict(FIELDS[name])
    if "hadamard" in fields:
        fields["hadamard"] = fields["hadamard"][:2] if make is bart else fields["hadamard"][2:]
    model: Any = tbt_compile.prepare(make(layers=1), Recipe.parse("2-2-2", **fields))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.randint(3, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    state = model.eval().state_dict()
    if "activation_offset" in fields:
        offsets = [value for key, value in state.items() if key.endswith(".offset")]
        assert offsets and any(float(value) for value in offsets)
    frozen = tbt_compile.freeze(model)
    frozen.save(tmp_path / "packed")
    loaded = tbt_compile.load(tmp_path / "packed")
    assert loaded.recipe == frozen.recipe
    given, mask = sources(PAD) if make is bart else prompts(PAD)
    expected = eager_tokens(frozen, given, mask, **NEW_TOKENS)
    assert len({tuple(row) for row in expected[:, -4:].tolist()}) > 1
    assert np.array_equal(eager_tokens(loaded, given, mask, **NEW_TOKENS), expected)
    compiled: Any = tbt_compile.lower(loaded)
    assert np.array_equal(compiled.generate(given, mask, **NEW_TOKENS), expected)
    model.save_pretrained(tmp_path / "prepared")
    again = tbt_compile.load_prepared(tmp_path / "prepared")
    assert np.array_equal(eager_tokens(tbt_compile.freeze(again), given, mask, **NEW_TOKENS), expected)


@pytest.mark.parametrize("make", [bart, llama], ids=["bart", "llama"])
def test_offsets_let_no_masked_position_through(make: Any) -> None:
    model: Any = tbt_compile.prepare(make(layers=1), Recipe.parse("2-2-2", activation_offset=True))
    ids = torch.randint(3, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(1))
    model(input_ids=ids, labels=ids)
    model.eval()
    with torch.no_grad():
        for quantizer in model.modules():
            if (
                isinstance(quantizer, ActivationQuantizer)
                and quantizer.learned
                and quantizer.offset is not None
            ):
                quantizer.offset.copy_(-0.6 * quantizer.scale)  # 0 is then nearer to the next level
        changed = ids.clone()
        changed[:, 5:] = ids[:, :4]
        mask = torch.ones_like(ids)
        if make is bart:
            mask[:, 5:] = 0
            calls = [{"input_ids": given, "attention_mask": mask} for given in (ids, changed)]
            one, other = (model(**call, decoder_input_ids=ids).logits for call in calls)
        else:
            one, other = (
                model(input_ids=given, attention_mask=mask).logits[:, :5] for given in (ids, changed)
            )
    assert torch.equal(one, other)
