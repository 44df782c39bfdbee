"""Lengths beyond which a model computes something else: kept as limits, and refused by name and number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import eager_tokens, trained
from models import _LLAMA_LIKE, LAYERS, VOCABULARY, bart, gemma2, llama
from transformers import (
    BartForConditionalGeneration,
    GemmaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MoshiConfig,
    MoshiForCausalLM,
    Phi3Config,
    PreTrainedModel,
)

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.adapters import adapter_for
from tbt_compile.adapters.rope import positions_of
from tbt_compile.adapters.unit_limits import _window_of_the_cache
from tbt_compile.errors import GenerationError, LoweringError
from tbt_compile.runtime.input_checks import Limits

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 16,
}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (Phi3Config(**SIZES, original_max_position_embeddings=16, rope_parameters=LONG, pad_token_id=0), 16),
        (LlamaConfig(**SIZES), 64),
        (GemmaConfig(**SIZES), 64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_long_rope_ends_where_its_frequencies_change(config: object, positions: int) -> None:
    assert positions_of(config) == positions


def limits_of(model: PreTrainedModel) -> Limits:
    """The limits in the manifest of a model, which is exported but neither prepared nor compiled."""
    adapter = adapter_for(model.eval())
    with adapter.capturing(model):
        return Limits.recorded(adapter.export_units(model).settings)


def scaled(kind: str, **options: Any) -> PreTrainedModel:
    return llama(layers=1, rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, **options})


def mistral() -> PreTrainedModel:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**_LLAMA_LIKE, num_hidden_layers=1, sliding_window=8))


BOUNDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
OF_ONE_WAY: dict[str, Callable[[], PreTrainedModel]] = {
    "linear": lambda: scaled("linear"),
    "yarn": lambda: scaled("yarn", original_max_position_embeddings=16),
    "llama3": lambda: scaled("llama3", **BOUNDS),
    "sliding window": mistral,
    "two masks": lambda: gemma2(layers=LAYERS, sliding_window=8),
}


@pytest.mark.parametrize("name", OF_ONE_WAY)
def test_one_way_through_the_forward_needs_no_bounds(name: str) -> None:
    limits = limits_of(OF_ONE_WAY[name]())
    assert limits.source.positions == 64
    assert limits.bounds == {}


class Branching(LlamaForCausalLM):
    """Computes something else for some lengths."""

    special: Callable[[torch.Tensor, torch.Tensor], bool]

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)
        if type(self).special(input_ids, attention_mask):
            output.logits = output.logits.flip(-1)
        return output


def branching(special: Callable[[torch.Tensor, torch.Tensor], bool], **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    kind = type("Toy", (Branching,), {"special": staticmethod(special)})
    return kind(LlamaConfig(**{**_LLAMA_LIKE, "num_hidden_layers": 1, **options}))


def asserted(ids: torch.Tensor, _: torch.Tensor) -> bool:
    assert ids.shape[0] <= 8
    torch._check(ids.shape[1] < 30)
    return False


@pytest.mark.parametrize(
    ("special", "function", "sizes", "message"),
    [
        (
            lambda ids, _: ids.shape[1] > 16,
            "first_step",
            {"rows": 1, "tokens": 17},
            r"a prompt of 17 tokens: expected at most 16: the forward takes another branch beyond \(test_len",
        ),
        (
            lambda ids, _: ids.shape[1] > 4,
            "first_step",
            {"rows": 1, "tokens": 4},
            "a prompt of 4 tokens: expected at least 5: the forward takes another branch below",
        ),
        (
            lambda _, mask: mask.shape[1] > 20,
            "step",
            {"rows": 1, "tokens": 21},
            "a sequence of 21 tokens: expected at most 20: .*; change max_new_tokens or max_length",
        ),
        (
            lambda ids, _: ids.shape == (1, 1),
            "first_step",
            {"rows": 1, "tokens": 3},
            "",
        ),
        (
            lambda ids, _: ids.shape[0] == 1,
            "step",
            {"rows": 1, "tokens": 3},
            r"a batch of 1 rows \(beams included\): expected at least 2: the forward takes another branch",
        ),
        (
            asserted,
            "step",
            {"rows": 9, "tokens": 3},
            "a batch of 9 rows .*: expected at most 8: .*assert ids",
        ),
        (asserted, "first_step", {"rows": 8, "tokens": 30}, "a prompt of 30 tokens: expected at most 29"),
    ],
)
def test_a_call_that_would_take_another_branch_is_refused(
    special: Any, function: str, sizes: dict[str, int], message: str
) -> None:
    if not message:
        with pytest.raises(
            LoweringError, match="forward of Toy takes another branch where rows == 1 and tok"
        ):
            limits_of(branching(special))
        return
    limits = limits_of(branching(special))
    with pytest.raises(GenerationError, match=message):
        limits.check_sizes(function, **sizes)
    limits.check_sizes(function, rows=2, tokens=9)


def test_a_branch_that_no_bound_expresses_is_refused_before_anything_is_compiled() -> None:
    with pytest.raises(
        LoweringError,
        match=r"the first_step of Toy was captured for calls where rows < tokens \(test_len",
    ):
        limits_of(branching(lambda ids, _: ids.shape[0] >= ids.shape[1]))


def test_prompts_of_an_excluded_length_are_refused() -> None:
    limits = limits_of(branching(lambda ids, _: ids.shape[1] % 4 == 0))
    with pytest.raises(GenerationError, match="a prompt of 8 tokens: expected no multiple of 4"):
        limits.check_sizes("first_step", rows=2, tokens=8)
    limits.check_sizes("first_step", rows=2, tokens=9)


def test_a_decoder_that_goes_by_values_or_keeps_state_is_refused() -> None:
    with pytest.raises(
        LoweringError, match=r"Toy cannot be captured .*test_length_limits.py:\d+: .*by the val"
    ):
        limits_of(branching(lambda ids, _: bool(ids.sum() > 7)))
    calls: list[int] = []
    with pytest.raises(LoweringError, match="the forward of Toy does not return the same when it is called"):
        limits_of(branching(lambda ids, _: calls.append(1) or len(calls) % 2 == 0))


def test_both_sides_of_an_encoder_decoder_model() -> None:
    class Toy(BartForConditionalGeneration):
        def forward(self, *args: Any, **options: Any) -> Any:
            output = super().forward(*args, **options)
            if options["attention_mask"].shape[1] > 20 or options["decoder_input_ids"].shape[1] > 4:
                output.logits = output.logits.flip(-1)
            return output

    model = bart(layers=1)
    model.__class__ = Toy
    limits = limits_of(model)
    assert {name: sorted(bound.size for bound in found) for name, found in limits.bounds.items()} == {
        "first_step": ["source", "tokens"],
        "step": ["source"],
    }
    with pytest.raises(GenerationError, match="a source of 21 tokens: expected at most 20"):
        limits.check_sizes("first_step", rows=1, source=21, tokens=1)
    with pytest.raises(GenerationError, match="a prompt of 5 tokens: expected at most 4"):
        limits.check_sizes("first_step", rows=1, source=20, tokens=5)


Pair = tuple[PreTrainedModel, CompiledModel]


@pytest.fixture(scope="module")
def dynamic() -> Pair:
    """Dynamic RoPE from 16 positions on, and a branch beyond 12 tokens of a prompt."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e2, "factor": 4.0}
    model = branching(lambda ids, _: ids.shape[1] > 12, rope_parameters=rope, max_position_embeddings=16)
    model.generation_config.pad_token_id = 1
    model = trained(model, "2-2-2")
    with torch.no_grad():  # leaves the frequencies of 40 positions behind
        model(input_ids=torch.full((1, 40), 5))
    assert not torch.equal(model.model.rotary_emb.inv_freq, model.model.rotary_emb.original_inv_freq)
    return model, tbt_compile.lower(model)


def test_dynamic_rope_keeps_its_original_frequencies(dynamic: Pair) -> None:
    model, compiled = dynamic
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (3, 10))
    settings = {"max_new_tokens": 6, "min_new_tokens": 6}
    expected = eager_tokens(model, ids, np.ones_like(ids), **settings)
    assert np.array_equal(compiled.generate(ids, **settings), expected)
    with pytest.raises(GenerationError, match="17 decoder tokens are more than the model's 16 positions"):
        compiled.generate(ids, max_new_tokens=8, min_new_tokens=8)


def test_a_compiled_model_refuses_the_other_branch(dynamic: Pair) -> None:
    with pytest.raises(
        GenerationError, match=r"a prompt of 13 tokens: expected at most 12: .*another branch beyond"
    ):
        dynamic[1].generate(np.full((1, 13), 5), max_new_tokens=1)
    assert dynamic[1].description["max_positions"] == 12


def test_a_cache_that_drops_tokens_limits_a_model_without_a_mask_of_its_window() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    moshi = MoshiForCausalLM(MoshiConfig(**sizes, head_dim=8, ffn_dim=32, sliding_window=8))
    mistral = MistralForCausalLM(MistralConfig(**sizes, intermediate_size=32, sliding_window=8))
    assert (_window_of_the_cache(moshi), _window_of_the_cache(mistral)) == (8, None)
