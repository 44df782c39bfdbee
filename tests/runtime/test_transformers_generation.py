"""Compiled models under transformers' own `generate` and pipelines."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import Case, eager_tokens, sources
from models import PAD, VOCABULARY
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, MaxTimeCriteria, TextStreamer
from transformers.generation import StoppingCriteria, StoppingCriteriaList

import tbt_compile
from tbt_compile import CompiledModelForSeq2SeqLM, Seq2SeqPipeline
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.errors import FormatError, GenerationError

IDS, MASK = sources(PAD)
INPUTS = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)}
WORDS = [f"w{number}" for number in range(VOCABULARY - 4)]


@pytest.fixture(scope="module")
def model(case: Case) -> CompiledModelForSeq2SeqLM:
    return CompiledModelForSeq2SeqLM(case.compiled)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token per word, as many as the models know."""
    return train_word_tokenizer([" ".join(WORDS)])


@pytest.mark.parametrize(
    "settings",
    [
        {},  # two beams
        {"num_beams": 1, "max_new_tokens": 15},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "max_new_tokens": 20},
        {"num_beams": 1, "max_new_tokens": 8, "use_cache": False},
    ],
)
def test_searches_are_those_of_the_compiled_model(
    case: Case, model: CompiledModelForSeq2SeqLM, settings: dict[str, Any]
) -> None:
    own = {name: value for name, value in settings.items() if name != "use_cache"}
    expected = case.compiled.generate(IDS, MASK, **own)
    assert np.array_equal(model.generate(**INPUTS, **settings).numpy(), expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_with_relative_positions(t5_case: Case, beams: int) -> None:
    ids, mask = sources(0)
    model = CompiledModelForSeq2SeqLM.from_pretrained(t5_case.folder)
    settings = {"num_beams": beams, "max_new_tokens": 12}
    found = model.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **settings).numpy()
    assert np.array_equal(found, model.compiled.generate(ids, mask, **settings))
    assert np.array_equal(found, eager_tokens(t5_case.eager, ids, mask, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1, "temperature": 0.8},
        {"num_beams": 1, "top_k": 5, "num_return_sequences": 3},
        {"num_beams": 1, "top_p": 0.7},
        {"num_beams": 3, "top_k": 20},
    ],
)
def test_samples_are_those_of_the_eager_model(
    case: Case, model: CompiledModelForSeq2SeqLM, settings: dict[str, Any]
) -> None:
    samples = []
    for network in (case.eager, model, model):
        torch.manual_seed(5)
        with torch.no_grad():
            samples.append(network.generate(**INPUTS, do_sample=True, max_new_tokens=12, **settings))
    assert torch.equal(samples[1], samples[0])
    assert torch.equal(samples[2], samples[1])
    torch.manual_seed(6)
    other = model.generate(**INPUTS, do_sample=True, max_new_tokens=12, **settings)
    assert other.shape != samples[0].shape or not torch.equal(other, samples[0])


class Only(LogitsProcessor):
    """Lets a single token through."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(scores.shape[1]) == 42, scores, -torch.inf)


class Stop(StoppingCriteria):
    """Ends every row at a length."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full(input_ids.shape[:1], input_ids.shape[1] >= 4)


def test_processors_and_criteria_take_effect(model: CompiledModelForSeq2SeqLM) -> None:
    options = {"num_beams": 1, "max_new_tokens": 6}
    only = model.generate(**INPUTS, logits_processor=LogitsProcessorList([Only()]), **options)
    assert only.shape == (5, 7)
    assert set(only[:, 1:].flatten().tolist()) == {42}
    stopped = model.generate(**INPUTS, stopping_criteria=StoppingCriteriaList([Stop()]), **options)
    assert stopped.shape == (5, 4)
    in_time = StoppingCriteriaList([MaxTimeCriteria(0.0)])
    assert model.generate(**INPUTS, stopping_criteria=in_time, **options).shape == (5, 2)


def test_words_are_streamed(
    case: Case, model: CompiledModelForSeq2SeqLM, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    model.generate(INPUTS["input_ids"][:1], streamer=streamer, num_beams=1, max_new_tokens=20)
    tokens = case.compiled.generate(IDS[:1], num_beams=1, max_new_tokens=20)[0]
    assert capsys.readouterr().out.split() == tokenizer.decode(tokens, skip_special_tokens=True).split()


def test_scores_are_the_logits(case: Case, model: CompiledModelForSeq2SeqLM) -> None:
    result = model.generate(
        **INPUTS, num_beams=1, max_new_tokens=3, return_dict_in_generate=True, output_logits=True
    )
    session = case.compiled.session(IDS, MASK)
    for step, logits in enumerate(result.logits):
        assert np.array_equal(session.step(result.sequences[:, step : step + 1].numpy()), logits.numpy())
    assert result.past_key_values.get_seq_length() == 3


def test_the_encoder_runs_once(
    case: Case, model: CompiledModelForSeq2SeqLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, library = [], case.compiled._bound()
    call, into = library.call, library.call_into
    monkeypatch.setattr(library, "call", lambda name, *rest: calls.append(name) or call(name, *rest))
    monkeypatch.setattr(library, "call_into", lambda name, *rest: calls.append(name) or into(name, *rest))
    model.generate(**INPUTS, num_beams=3, max_new_tokens=5, min_new_tokens=5)
    assert calls == ["encoder", "first_step", *["step"] * 4]


def test_one_call_of_the_model_as_of_any_other(model: CompiledModelForSeq2SeqLM) -> None:
    prompt = torch.tensor([[2, 5, 6]] * 5)
    whole = model(**INPUTS, decoder_input_ids=prompt)
    encoded = model.get_encoder()(**INPUTS)
    first = model(
        encoder_outputs=encoded,
        attention_mask=INPUTS["attention_mask"],
        decoder_input_ids=prompt[:, :2],
    )
    second = model(past_key_values=first.past_key_values, decoder_input_ids=prompt[:, 2:])
    assert whole.logits.shape == (5, 1, VOCABULARY)
    assert torch.equal(second.logits, whole.logits)
    assert model(**INPUTS, decoder_input_ids=prompt, use_cache=False).past_key_values is None


def test_pipeline(case: Case, model: CompiledModelForSeq2SeqLM, tokenizer: Any) -> None:
    texts = [" ".join(WORDS[start : start + length]) for start, length in ((3, 9), (20, 4), (50, 1))]
    expected = []
    for text in texts:
        tokens = case.compiled.generate([tokenizer(text)["input_ids"]], num_beams=3)[0]
        expected.append([{"generated_text": tokenizer.decode(tokens, skip_special_tokens=True).strip()}])
    write = Seq2SeqPipeline(model, tokenizer, num_beams=3)
    assert write(texts[0]) == expected[0]
    assert write(texts, batch_size=2) == expected
    assert list(write(text for text in texts)) == expected
    assert len(write(texts[1], num_return_sequences=3)) == 3
    prefixed = Seq2SeqPipeline(model, tokenizer, prefix="w3 w4 ", num_beams=3)
    assert prefixed(" ".join(WORDS[5:12])) == expected[0]
    eager = Seq2SeqPipeline(case.eager, tokenizer, num_beams=3)
    assert eager(texts) == expected


def test_saved_and_read_again(case: Case, model: CompiledModelForSeq2SeqLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    again = CompiledModelForSeq2SeqLM.from_pretrained(tmp_path / "saved", num_threads=1)
    assert again.compiled.num_threads == 1
    assert torch.equal(again.generate(**INPUTS), model.generate(**INPUTS))
    assert again.generation_config.num_beams == 2
    assert again.config.vocab_size == VOCABULARY


def test_what_it_cannot_do(case: Case, model: CompiledModelForSeq2SeqLM, tmp_path: Path) -> None:
    prompt = torch.tensor([[2]] * 5)
    for arguments, message in (
        ({"labels": prompt, **INPUTS}, "labels: a compiled model has no loss"),
        ({"decoder_input_ids": prompt}, "input_ids is missing"),
        (INPUTS, "decoder_input_ids is missing"),
        (
            {"decoder_input_ids": prompt[:2], **INPUTS},
            r"decoder_input_ids has shape \[2, 1\]: expected \[5, ",
        ),
        (
            {
                "decoder_input_ids": prompt,
                "encoder_outputs": (torch.zeros(5, 7, 32),),
                "attention_mask": INPUTS["attention_mask"],
            },
            r"encoder output of shape \[5, 7, 32\] with attention_mask of shape \[5, 13\]",
        ),
        ({"decoder_input_ids": prompt, "output_attentions": True, **INPUTS}, "output_attentions: a compiled"),
        (
            {"decoder_input_ids": prompt, "decoder_attention_mask": torch.zeros(5, 1), **INPUTS},
            "decoder_attention_mask has a 0",
        ),
        (
            {"decoder_input_ids": prompt, "past_key_values": DynamicCache(), **INPUTS},
            "past_key_values is a DynamicCache: expected the SessionCache",
        ),
    ):
        with pytest.raises(GenerationError, match=message):
            model(**arguments)
    with pytest.raises(GenerationError, match="cannot be trained"):
        model.train()
    assert model.eval() is model
    with pytest.raises(GenerationError, match="output_hidden_states"):
        model.generate(**INPUTS, output_hidden_states=True, return_dict_in_generate=True)
    with pytest.raises(GenerationError, match="input_ids holds 3 to 96"):
        model.generate(torch.tensor([[3, VOCABULARY]]))
    with pytest.raises(ValueError, match="assisted generation is not supported"):
        model.generate(INPUTS["input_ids"][:1], prompt_lookup_num_tokens=2, num_beams=1)
    with pytest.raises(FormatError, match="is not a model folder"):
        CompiledModelForSeq2SeqLM.from_pretrained(tmp_path / "nowhere")
    frozen = tbt_compile.freeze(copy.deepcopy(case.eager)).save(tmp_path / "frozen")
    with pytest.raises(FormatError, match="holds a frozen model: expected a compiled one"):
        CompiledModelForSeq2SeqLM.from_pretrained(frozen)
    cache = model(**INPUTS, decoder_input_ids=prompt).past_key_values
    with pytest.raises(GenerationError, match="cannot be written"):
        cache.update(torch.zeros(1), torch.zeros(1), 0)
