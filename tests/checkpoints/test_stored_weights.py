"""What a weight is stored as: the fewest bits that lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tbt_compile
from tbt_compile.checkpoints.stored_weights import find_codes, from_codes, stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError, RecipeError
from tests.checkpoints.checkpoint_tools import llama, save, with_codes


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    shape=st.sampled_from(((64, 64), (64, 16), (256, 32), (512, 128), (96, 32), (200, 200), (768, 256))),
    binary=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float16, torch.bfloat16)),
)
def test_codes_are_found_with_the_fewest_scales(
    seed: int, rows: int, shape: tuple[int, int], binary: bool, dtype: torch.dtype
) -> None:
    columns, size = shape
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-1, 2, (rows, columns), generator=generator).float()
    codes = torch.where(codes == 0, 1.0, codes) if binary else codes
    scales = torch.rand(rows, columns // size, generator=generator) + 0.5
    weight = (codes * scales.repeat_interleave(size, 1)).to(dtype)
    found = find_codes(weight)
    assert found is not None
    assert torch.equal(found().value, weight.float())
    assert found.scale.shape[1] <= columns // size
    assert found.encoding is (Encoding.BINARY if bool((weight != 0).all()) else Encoding.TERNARY)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: w, Encoding.TERNARY),
        (lambda w: w * torch.tensor([0.0] + [1.0] * 9)[:, None], Encoding.TERNARY),  # a row of zeros
        (lambda w: torch.where(w == 0, -0.0, w), Encoding.TERNARY),
        (lambda w: w.index_put((torch.tensor(9), torch.tensor(3)), torch.tensor(0.3)), None),
        (lambda w: w.index_put((torch.tensor(9), torch.tensor(3)), torch.tensor(float("nan"))), None),
        (lambda w: w.index_put((torch.tensor(9), torch.tensor(3)), torch.tensor(float("inf"))), None),
        (lambda w: w[:, :15], None),  # too few columns to say
    ],
)
def test_one_other_value_makes_it_no_ternary_weight(change, expected) -> None:  # type: ignore[no-untyped-def]
    weight = change(torch.randint(-1, 2, (10, 72)).float() * 0.125)
    found = find_codes(weight)
    assert (found and found.encoding) is expected


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (torch.randn(5, 40).bfloat16(), Encoding.BFLOAT16),
        (torch.randn(5, 40).half(), Encoding.FLOAT16),
        (torch.randn(5, 40).bfloat16().float(), Encoding.BFLOAT16),
        (torch.randn(5, 40).half().float(), Encoding.FLOAT16),
        (torch.randn(5, 40), None),
    ],
)
def test_other_weights_keep_their_bits(weight: torch.Tensor, expected: Encoding | None) -> None:
    found = stored_weight(weight)
    assert (found and found.encoding) is expected
    if found is not None:
        assert torch.equal(found().value, weight.float())


def test_codes_with_one_scale() -> None:
    codes = torch.randint(-1, 2, (9, 70))
    assert torch.equal(from_codes(codes, torch.tensor([0.5]))().value, codes * 0.5)


@pytest.mark.parametrize("size", [None, 128, 64, 32])
def test_a_model_with_ternary_weights_in_safetensors(tmp_path: Path, size: int | None) -> None:
    model = with_codes(llama(), size)
    folder = save(tmp_path / "folder", model, dict(model.state_dict()))
    frozen = tbt_compile.from_pretrained(folder)
    assert frozen.recipe.notation == "32-2-32"
    ids = torch.randint(3, 320, (4, 9))
    with torch.no_grad():
        torch.testing.assert_close(frozen(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    frozen.save(tmp_path / "frozen")
    with torch.no_grad():
        assert torch.equal(tbt_compile.load(tmp_path / "frozen")(ids).logits, frozen(ids).logits)


def test_compiled_groups_write_the_same_tokens(tmp_path: Path) -> None:
    model = with_codes(llama(), 64)
    frozen = tbt_compile.from_pretrained(save(tmp_path / "folder", model, dict(model.state_dict())))
    ids = torch.randint(3, 320, (5, 9))
    expected = frozen.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)
    assert (tbt_compile.lower(frozen).generate(ids, max_new_tokens=8) == expected.numpy()).all()


def test_eight_bit_activations_are_asked_for(tmp_path: Path) -> None:
    model = with_codes(llama(), None)
    folder = save(tmp_path / "rows", model, dict(model.state_dict()))
    frozen = tbt_compile.from_pretrained(folder, activation_bits=8)
    assert frozen.recipe.notation == "32-2-8"
    ids = torch.randint(3, 320, (4, 9))
    with torch.no_grad():
        change = (frozen(ids).logits - model(ids).logits).norm() / model(ids).logits.norm()
    assert 0 < change < 0.05
    grouped = with_codes(llama(), 64)
    folder = save(tmp_path / "groups", grouped, dict(grouped.state_dict()))
    with pytest.raises(FormatError, match="has a scale for every 64 columns"):
        tbt_compile.from_pretrained(folder, activation_bits=8)


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    model = llama()
    folder = save(tmp_path / "float", model, dict(model.state_dict()))
    with pytest.raises(FormatError, match="has no ternary or binary weights: expected a BitNet checkpoint"):
        tbt_compile.from_pretrained(folder)
    with pytest.raises(RecipeError, match="embedding_bits=4: expected 8"):
        tbt_compile.from_pretrained(folder, embedding_bits=4)
    model.config.quantization_config = {"quant_method": "gptq", "bits": 2}
    folder = save(tmp_path / "gptq", model, dict(model.state_dict()))
    with pytest.raises(FormatError, match="is quantized by the method 'gptq': expected 'bitnet'"):
        tbt_compile.from_pretrained(folder)
    with pytest.raises(FormatError, match="does not exist: expected a folder"):
        tbt_compile.from_pretrained(tmp_path / "nothing")


def test_attention_that_is_no_function_is_not_quantized_silently(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=100, hidden_size=64, n_layer=1, n_head=2))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = torch.randint(-1, 2, module.weight.shape).float()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    folder = save(tmp_path / "folder", model, state)
    with pytest.raises(RecipeError, match="attention of BloomForCausalLM does not go through"):
        tbt_compile.from_pretrained(folder, attention_bits=8)


def test_tables_with_a_forward_of_their_own_stay_as_they_are(tmp_path: Path) -> None:
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32}
    model = PegasusForConditionalGeneration(PegasusConfig(**sizes, **heads, decoder_ffn_dim=32)).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = torch.randint(-1, 2, module.weight.shape).float() * 0.25
    model = model.bfloat16()
    tied = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    folder = save(tmp_path / "folder", model, {k: v for k, v in model.state_dict().items() if k not in tied})
    ids = torch.randint(3, 50, (2, 5))
    with torch.no_grad():
        expected = model.float()(input_ids=ids, decoder_input_ids=ids).logits
        found = tbt_compile.from_pretrained(folder)(input_ids=ids, decoder_input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
