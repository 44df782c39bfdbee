"""What `prepare` keeps of a transformers model: class, names, ties; its function when it is a no-op."""

from __future__ import annotations

import pytest
import torch
from models import DECODERS, FAMILIES, bart, batch, generate, llama, prepared
from torch import Tensor, nn
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.modules import is_prepared, iter_quantized
from tbt_compile.modules.attention import QuantizedAttention
from tbt_compile.quantizers import ActivationQuantizer


def loss_and_gradients(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**batch(model)).loss
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_op_quantizers_change_nothing(family: str) -> None:
    model = FAMILIES[family]()
    model.set_attn_implementation("eager")
    loss, gradients = loss_and_gradients(model)
    tokens = generate(model)
    tbt_compile.prepare(model, "32-32-32")
    assert is_prepared(model)
    loss_after, gradients_after = loss_and_gradients(model)
    assert torch.equal(loss, loss_after)
    assert gradients.keys() == gradients_after.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_after[name]), name
    assert torch.equal(tokens, generate(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_ties_and_class_are_kept(family: str) -> None:
    model = FAMILIES[family](layers=1)
    kind, keys = type(model), set(model.state_dict())
    parameters = dict(model.named_parameters())
    classes = {name: type(module) for name, module in model.named_modules()}
    tied = {name: [k for k, v in model.state_dict().items() if v is p] for name, p in parameters.items()}
    tbt_compile.prepare(model, "2-2-2")
    assert type(model) is kind
    assert keys <= set(model.state_dict())
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())
    for name, module in model.named_modules():
        if name in classes:
            assert isinstance(module, classes[name]), name
    assert tied == {
        name: [k for k, v in model.state_dict().items() if v is p]
        for name, p in after.items()
        if name in tied
    }
    if model.config.tie_word_embeddings:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    added = set(model.state_dict()) - keys
    assert all(name.rpartition(".")[2] in ("scale", "initialized") for name in added)


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_search_with_a_cache_equals_one_without(family: str) -> None:
    model = prepared(family)
    model.train()
    model(**batch(model))
    model.eval()
    with_cache = generate(model)
    assert torch.equal(with_cache, generate(model, cache=False))
    rows = {tuple(row) for row in with_cache.tolist()}
    assert len(rows) > 1, "the outputs have to differ between inputs for this test to mean anything"


@pytest.mark.parametrize("family", FAMILIES)
def test_quantizer_parameters_exist_before_the_first_batch(family: str) -> None:
    model = prepared(family)
    before = {name for name, _ in model.named_parameters()}
    _, gradients = loss_and_gradients(model)
    assert before == {name for name, _ in model.named_parameters()}
    scales = [name for name in before if name.endswith(".scale")]
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    learned = [quantizer for quantizer in quantizers if quantizer.learned]
    assert len(scales) == len(learned) > 8
    assert all(bool(quantizer.initialized) for quantizer in learned)
    assert set(scales) <= gradients.keys()


def test_first_batch_initialises_in_evaluation_mode_too() -> None:
    model = tbt_compile.prepare(bart(layers=1), "1-1-1")
    with torch.no_grad():
        first = model(**batch(model)).logits
        again = model(**batch(model)).logits
    assert torch.equal(first, again)
    assert all(bool(value) for name, value in model.state_dict().items() if name.endswith("initialized"))


@pytest.mark.parametrize("family", ["bart", "t5", "llama"])
def test_training_and_back_leaves_evaluation_alone(family: str) -> None:
    model = prepared(family)
    inputs = batch(model)
    with torch.no_grad():
        first = model(**inputs).logits
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        model(**inputs)
        model.eval()
        again = model(**inputs).logits
    assert torch.equal(first, again)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_dropout_is_on_in_training_and_off_in_evaluation() -> None:
    model = tbt_compile.prepare(bart(layers=1, dropout=0.0, attention_dropout=0.5), "2-2-8")
    inputs = batch(model)
    with torch.no_grad():
        model.train()
        torch.manual_seed(1)
        noisy = model(**inputs).logits
        torch.manual_seed(2)
        other = model(**inputs).logits
        model.eval()
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    assert not torch.equal(noisy, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sentence_does_not_depend_on_its_batch_or_padding(family: str) -> None:
    model = prepared(family)
    inputs = batch(model)
    inputs.pop("labels")
    ids, mask = inputs["input_ids"], torch.ones_like(inputs["input_ids"])
    decoder = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    alone = {name: value[:1] for name, value in decoder.items()}
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask, **decoder).logits
        single = model(input_ids=ids[:1], attention_mask=mask[:1], **alone).logits
        padded_ids = torch.cat([ids, ids.new_full((3, 4), 1)], dim=1)
        padded_mask = torch.cat([mask, mask.new_zeros((3, 4))], dim=1)
        padded = model(input_ids=padded_ids, attention_mask=padded_mask, **decoder).logits
    torch.testing.assert_close(together[:1], single, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, padded[:, : together.shape[1]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_maps_come_with_the_keyword(family: str) -> None:
    model = prepared(family)
    inputs = batch(model)
    output = model(**inputs, output_attentions=True)
    maps = output.attentions if family in DECODERS else output.encoder_attentions
    assert len(maps) == 2
    rows = maps[0].sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    with pytest.raises(ValueError, match="output_attentions"):
        model.config.output_attentions = True


def test_iter_quantized_finds_every_kind_once() -> None:
    model = prepared("bart")
    found = dict(iter_quantized(model))
    plan = tbt_compile.plan(bart(), "2-2-2")
    names = {site.fqn + (".tbt_attention" if site.kind.value == "attention" else "") for site in plan}
    assert set(found) == names
    core = found["model.encoder.layers.0.self_attn.tbt_attention"]
    assert isinstance(core, QuantizedAttention)
    assert [name for name, _ in core.named_children()] == ["query", "key", "probabilities", "value"]
    assert found["lm_head"].weight_rows is model.lm_head.weight
    conv = prepared("gpt2").transformer.h[0].attn.c_attn
    assert conv.weight_rows.shape == (conv.nf, conv.nx)


def test_excluded_attention_of_a_prepared_model_stays_eager() -> None:
    recipe = tbt_compile.Recipe.parse("2-2-2", exclude=("*encoder_attn",))
    model = tbt_compile.prepare(bart(layers=1), recipe)
    cross = model.model.decoder.layers[0].encoder_attn
    assert not is_prepared(cross)
    assert type(cross.q_proj) is nn.Linear
    assert generate(model).shape[1] == 9


def test_the_original_of_a_shared_embedding_is_quantized_too() -> None:
    """Nothing calls it in a usual forward, but inputs_embeds and resizing go through it."""
    model = prepared("bart")
    inputs = batch(model)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        by_ids = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits
        embedded = model.get_input_embeddings()(ids)
        by_vectors = model(inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=ids).logits
    assert torch.equal(by_ids, by_vectors)
    model.resize_token_embeddings(100, mean_resizing=False)
    assert model.model.encoder.embed_tokens is model.model.shared
    assert {"lm_head", "model.shared"} <= {name for name, _ in iter_quantized(model)}


def test_tied_weights_have_the_same_codes_and_untied_ones_their_own_bits() -> None:
    model = tbt_compile.prepare(bart(layers=1), "1-2-2")
    embedding, head = model.model.encoder.embed_tokens, model.lm_head
    codes = [m.weight_quantizer(m.weight_rows) for m in (embedding, head)]
    assert torch.equal(codes[0].codes, codes[1].codes)
    assert torch.equal(codes[0].scale, codes[1].scale)
    assert set(codes[0].codes.unique().tolist()) == {-1.0, 1.0}
    untied = tbt_compile.prepare(llama(layers=1, tie_word_embeddings=False), "1-2-2")
    assert untied.lm_head.weight_quantizer.encoding is tbt_compile.Encoding.TERNARY
    assert untied.lm_head.input_quantizer.encoding is tbt_compile.Encoding.INT8


def test_patterns_that_match_nothing_are_named(caplog: pytest.LogCaptureFixture) -> None:
    recipe = tbt_compile.Recipe.parse("2-2-2", exclude=("lm_heat", "lm_head", "*.fc1", "model.encoder.*"))
    found = tbt_compile.plan(bart(layers=1), recipe)
    assert found.unmatched == ("lm_heat",)
    tbt_compile.prepare(bart(layers=1), tbt_compile.Recipe.parse("2-2-2", exclude=("model.shraed",)))
    assert "pattern 'model.shraed' matches nothing in this BartForConditionalGeneration." in caplog.text
    assert "Did you mean model.shared" in caplog.text
