"""Decoder-only models: eager tokens when compiled, whatever the padding; limits; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import eager_tokens, prompts, trained
from models import HEADS, POSITIONS, VOCABULARY, gemma2, gpt2, llama, opt
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import CompiledModel, CompiledModule
from tbt_compile.errors import FormatError, GenerationError
from tbt_compile.runtime.bound_library import as_array, tensor

NEW_TOKENS = {"max_new_tokens": 14, "min_new_tokens": 5}
PAD = 1
IDS, MASK = prompts(PAD)
Pair = tuple[PreTrainedModel, CompiledModel]


def grouped(**options: Any) -> PreTrainedModel:
    """A Llama in which two query heads share each head of keys and values."""
    return llama(num_attention_heads=2 * HEADS, num_key_value_heads=HEADS, **options)


BUILDERS = {"gpt2": gpt2, "opt": opt, "llama": grouped}


@pytest.fixture(scope="module", params=BUILDERS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A prepared model of each family, and the compiled one."""
    model = trained(BUILDERS[request.param](layers=2 if request.param == "gpt2" else 1), "2-2-2")
    return model, tbt_compile.lower(model)


@pytest.mark.parametrize("beams", [1, 4])
def test_tokens_equal_those_of_the_eager_model(pair: Pair, beams: int) -> None:
    model, compiled = pair
    expected = eager_tokens(model, IDS, MASK, num_beams=beams, **NEW_TOKENS)
    written = expected[:, IDS.shape[1] :]
    assert len({tuple(row) for row in written.tolist()}) > 1, "outputs have to differ between inputs"
    got = compiled.generate(IDS, MASK, num_beams=beams, **NEW_TOKENS)
    assert np.array_equal(got, expected)
    assert np.array_equal(got[:, : IDS.shape[1]], IDS)


def test_a_half_precision_model_whose_embedding_reads_its_weight() -> None:
    frozen = tbt_compile.freeze(trained(gemma2(layers=1).bfloat16(), "2-2-2"))
    expected = eager_tokens(frozen, IDS, MASK, **NEW_TOKENS)
    compiled = tbt_compile.lower(frozen)
    assert np.array_equal(compiled.generate(IDS, MASK, **NEW_TOKENS), expected)
    assert compiled.description["dtype"] == {"checkpoint": ["bfloat16"], "computation": "float32"}


@pytest.mark.parametrize("beams", [1, 3])
def test_padding_and_company_change_nothing(pair: Pair, beams: int) -> None:
    _, compiled = pair
    settings = {"num_beams": beams, **NEW_TOKENS}
    tokens = compiled.generate(IDS, MASK, **settings)[:, IDS.shape[1] :]
    for more in (1, 70):  # beyond a word of packed values, and beyond the positions
        left = ((0, 0), (more, 0))
        wide = compiled.generate(np.pad(IDS, left, constant_values=PAD), np.pad(MASK, left), **settings)
        assert np.array_equal(wide[:, IDS.shape[1] + more :], tokens)
    for row, length in enumerate(MASK.sum(1)):
        alone = compiled.generate(IDS[row : row + 1, -length:], **settings)[0, length:]
        assert np.array_equal(alone, tokens[row, : len(alone)])
        assert set(tokens[row, len(alone) :].tolist()) <= {PAD}


@pytest.mark.parametrize("tokens", [{}, {"pad_token_id": 5}, {"eos_token_id": [2, PAD]}])
def test_padding_without_a_mask_is_inferred(pair: Pair, tokens: dict[str, Any]) -> None:
    model, compiled = pair
    settings = {**NEW_TOKENS, **tokens}
    with torch.no_grad():
        expected = model.generate(torch.tensor(IDS), do_sample=False, **settings).numpy()
    assert np.array_equal(compiled.generate(IDS, **settings), expected)
    masked = np.array_equal(compiled.generate(IDS, MASK, **settings), expected)
    assert masked == (tokens == {}), "the mask has to matter"


def test_logits_are_close_to_those_of_the_eager_model(pair: Pair) -> None:
    model, compiled = pair
    ids = IDS[:1]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)).logits.numpy()
    session = compiled.session(ids[:, :4])
    np.testing.assert_allclose(session.step(ids[:, :4]), expected[:, 3], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(session.step(ids[:, 4:5]), expected[:, 4], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(session.step(ids[:, 5:8]), expected[:, 7], rtol=1e-4, atol=1e-4)


def test_positions_end(pair: Pair) -> None:
    model, compiled = pair
    ids = np.tile(IDS[:1], 5)[:, : POSITIONS - 2]
    expected = eager_tokens(model, ids, np.ones_like(ids), max_new_tokens=3, min_new_tokens=3)
    assert np.array_equal(compiled.generate(ids, max_new_tokens=3, min_new_tokens=3), expected)
    # Before the first token: what was written until then would be lost.
    begun: list[object] = []
    too_long = f"{POSITIONS + 1} decoder tokens are more than the model's"
    for short in (1, ids.shape[1]):
        most = POSITIONS + 2 - short
        with pytest.raises(GenerationError, match=too_long):
            compiled.generate(ids[:, :short], max_new_tokens=most, on_tokens=begun.append)
        with pytest.raises(GenerationError, match=too_long):
            compiled.generate_many([[5], ids[0, :short]], max_new_tokens=most, progress=begun.append)
    assert not begun
    with pytest.raises(GenerationError, match=f"the prompt has {POSITIONS + 1} tokens, and the model has 64"):
        compiled.generate(np.full((1, POSITIONS + 1), 3))


def test_caches_are_packed_and_heads_shared(pair: Pair) -> None:
    model, compiled = pair
    ones = tensor(np.ones((1, 3), np.int64))
    caches = compiled._bound().call("first_step", ones, ones, tensor(np.arange(3)[None]))[1:]
    grouped_query = model.config.model_type == "llama"
    width = 8 if grouped_query else 16
    layers = compiled.description["layers"]
    assert [(list(cache.shape), str(cache.dtype)) for cache in map(as_array, caches)] == [
        ([1, HEADS, 3, 2], "uint64"),
        ([1, HEADS, 1, 2, width], "uint64"),
    ] * layers


def test_eight_bit_activations_and_binary_weights() -> None:
    model = trained(grouped(layers=1), "1-1-8")
    compiled = tbt_compile.lower(tbt_compile.freeze(model))
    for beams in (1, 3):
        expected = eager_tokens(model, IDS, MASK, num_beams=beams, **NEW_TOKENS)
        assert np.array_equal(compiled.generate(IDS, MASK, num_beams=beams, **NEW_TOKENS), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5, "max_new_tokens": 9},
        {"encoder_no_repeat_ngram_size": 2, "no_repeat_ngram_size": 2, "max_new_tokens": 9},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0, "max_length": 20},
        {"max_length": 17, "min_length": 15},
    ],
)
def test_settings_mean_what_they_mean_in_transformers(pair: Pair, settings: dict[str, Any]) -> None:
    model, compiled = pair
    assert np.array_equal(
        compiled.generate(IDS, MASK, **settings), eager_tokens(model, IDS, MASK, **settings)
    )


def test_tokens_are_reported_as_they_come(pair: Pair) -> None:
    seen: list[np.ndarray[Any, Any]] = []
    output = pair[1].generate(IDS, MASK, max_new_tokens=5, on_tokens=seen.append)
    assert np.array_equal(np.stack(seen, axis=1), output[:, IDS.shape[1] :])


def test_save_and_load(pair: Pair, tmp_path: Path) -> None:
    _, compiled = pair
    folder = compiled.save(tmp_path / "model")
    loaded = tbt_compile.load(folder)
    assert isinstance(loaded, CompiledModel)
    assert not loaded.is_encoder_decoder
    assert np.array_equal(loaded.generate(IDS, MASK, num_beams=2), compiled.generate(IDS, MASK, num_beams=2))
    with pytest.raises(FormatError, match="holds a compiled model: expected a compiled-module one"):
        CompiledModule.load(folder)


def test_many_prompts(pair: Pair) -> None:
    _, compiled = pair
    rows = [ids[mask == 1] for ids, mask in zip(IDS, MASK, strict=True)]
    written = compiled.generate_many([*rows, rows[0]], num_beams=2, max_length=18, num_workers=2)
    for row, output in zip([*rows, rows[0]], written, strict=True):
        assert np.array_equal(output, compiled.generate([row], num_beams=2, max_length=18)[0][: len(output)])
        assert np.array_equal(output[: len(row)], row)
    with pytest.raises(GenerationError, match="encode: .* has no encoder; use session"):
        compiled.encode(IDS, MASK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": MASK[:, ::-1]}, "ends with padding, .*: pad shorter prompts on the left"),
        ({"decoder_input_ids": IDS}, "decoder_input_ids: .* has no encoder, and its prompt is input_ids"),
        ({"attention_mask": np.zeros_like(MASK)}, "masks every token of a prompt"),
        ({"max_length": 5}, "the decoder prompt has 13 tokens and the longest total length is 5"),
    ],
)
def test_arguments_that_do_not_fit(pair: Pair, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        pair[1].generate(IDS, **arguments)


def test_misuse(pair: Pair) -> None:
    _, compiled = pair
    with pytest.raises(GenerationError, match=r"compiled to generate text: use generate\(input_ids\)"):
        compiled(IDS)
    with pytest.raises(
        GenerationError, match=r"first step got tokens \[5, 1\]: expected the prompts \[5, 13\]"
    ):
        compiled.session(IDS, MASK).step(IDS[:, :1])
    with pytest.raises(GenerationError, match=f"decoder token {VOCABULARY}: expected ids from 0 to"):
        compiled.session(IDS[:, :1]).step(np.full((5, 1), VOCABULARY))
