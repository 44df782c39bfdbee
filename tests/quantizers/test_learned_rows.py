"""ParetoQ's learned scales of rows against its definition, element by element."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import tbt_compile
from tbt_compile.encoding import Encoding
from tbt_compile.quantizers.learned_rows import LearnedWeightQuantizer
from tbt_compile.quantizers.weights import stats_scale

RECIPE = tbt_compile.Recipe.parse("1-1-1", weight_method="learned")


def paretoq(w: float, a: float, encoding: Encoding) -> float:
    """Section 3 of arXiv:2502.02631: the value of a weight with the clip `a`."""
    if encoding is Encoding.BINARY:
        return a if w >= 0 else -a
    clipped = max(-0.99, min(0.99, w / a))
    return a * round(1.5 * clipped) / 1.5


def clip_of(scale: float, encoding: Encoding) -> float:
    return scale if encoding is Encoding.BINARY else 1.5 * scale


def make(encoding: Encoding, scales: list[float], ste: str = "identity") -> LearnedWeightQuantizer:
    quantizer = LearnedWeightQuantizer(encoding, len(scales), ste)
    with torch.no_grad():
        quantizer.scale.copy_(torch.tensor(scales)[:, None])
        quantizer.initialized.fill_(True)
    return quantizer


@given(
    seed=st.integers(0, 2**31),
    columns=st.sampled_from([1, 63, 65]),
    encoding=st.sampled_from([Encoding.BINARY, Encoding.TERNARY]),
)
def test_values_are_those_of_the_paper(seed: int, columns: int, encoding: Encoding) -> None:
    weight = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    scales = [0.25, 0.5, 1.0]
    value = make(encoding, scales)(weight).value
    for row, scale, found in zip(weight.tolist(), scales, value.tolist(), strict=True):
        expected = [paretoq(w, clip_of(scale, encoding), encoding) for w in row]
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("encoding", "ste", "reach"),
    [
        (Encoding.TERNARY, "trust", 1.5),
        (Encoding.BINARY, "clipped", 1.0),
        (Encoding.TERNARY, "identity", 1e9),
    ],
)
def test_gradients_are_those_of_the_paper(encoding: Encoding, ste: str, reach: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 40, generator=generator, requires_grad=True)
    upstream = torch.randn(2, 40, generator=generator)
    scales = [0.6, 1.1]
    quantizer = make(encoding, scales, ste)
    (quantizer(weight).value * upstream).sum().backward()
    for n, scale in enumerate(scales):
        total = 0.0
        rows = zip(weight[n].tolist(), upstream[n].tolist(), weight.grad[n].tolist(), strict=True)
        for w, up, grad in rows:
            a = clip_of(scale, encoding)
            assert grad == pytest.approx(up if abs(w) <= reach * scale else 0.0, rel=1e-5)
            of_clip = paretoq(w, a, encoding) / a
            if encoding is Encoding.TERNARY and abs(w) <= a:
                of_clip -= w / a
            total += up * of_clip * a / scale
        expected = total / math.sqrt(weight.numel())
        assert quantizer.scale.grad[n].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY])
def test_scales_start_from_the_statistics_of_the_rows_and_are_kept(encoding: Encoding) -> None:
    weight = torch.randn(4, 30)
    quantizer = LearnedWeightQuantizer(encoding, 4, "identity")
    quantizer(weight)
    assert torch.equal(quantizer.scale, stats_scale(weight, encoding))
    quantizer(2 * weight)
    assert torch.equal(quantizer.scale, stats_scale(weight, encoding))
    other = LearnedWeightQuantizer(encoding, 4, "identity")
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(3 * weight).scale, quantizer.scale)


def test_rows_are_quantized_with_their_own_scales() -> None:
    weight = torch.randn(3, 10)
    quantizer = make(Encoding.TERNARY, [0.1, 1.0, 2.0])
    whole, some = quantizer(weight), quantizer.quantize_rows(weight, slice(1, 3))
    assert torch.equal(some.codes, whole.codes[1:])
    assert torch.equal(some.scale, whole.scale[1:])


def llama(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [70, 50])
@pytest.mark.parametrize("seen", [True, False])
def test_scales_follow_a_resized_vocabulary(tied: bool, size: int, seen: bool, tmp_path: Path) -> None:
    model = tbt_compile.prepare(llama(tied), RECIPE)
    ids = torch.arange(24).reshape(2, 12)
    if seen:
        model(input_ids=ids)
    before = model.get_input_embeddings().weight_quantizer.scale.detach().clone()
    model.resize_token_embeddings(size)
    logits = model.eval()(input_ids=ids).logits
    assert logits.shape[-1] == size
    if seen:
        kept = min(size, 60)
        assert torch.equal(model.get_input_embeddings().weight_quantizer.scale[:kept], before[:kept])
    model.save_pretrained(tmp_path)
    assert torch.equal(tbt_compile.load_prepared(tmp_path).eval()(input_ids=ids).logits, logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_model_freezes_to_what_it_computed(tied: bool) -> None:
    model = tbt_compile.prepare(llama(tied), RECIPE)
    ids = torch.arange(24).reshape(2, 12)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    learned = [name for name, _ in model.named_parameters() if name.endswith("weight_quantizer.scale")]
    assert len(learned) == 8 if tied else 9
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    frozen = tbt_compile.freeze(model)
    assert torch.equal(frozen.module(input_ids=ids).logits, expected)
