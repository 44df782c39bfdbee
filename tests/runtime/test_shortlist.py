"""Models lowered with a shortlist write what the whole model writes with all other tokens suppressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from compiled_tools import eager_tokens, prompts, sources, trained
from models import EOS, PAD, VOCABULARY

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.errors import GenerationError, LoweringError

SHORT = [5, 90, 7, *range(20, 60), 5]
OTHERS = sorted(set(range(VOCABULARY)) - set(SHORT) - {0, EOS, PAD})


@pytest.fixture(scope="module")
def eager() -> Any:
    return trained(models.bart(layers=1), "2-2-2")


@pytest.fixture(scope="module")
def compiled(eager: Any) -> CompiledModel:
    return tbt_compile.lower(eager, shortlist=SHORT)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4},
        {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
        {"forced_bos_token_id": 22, "suppress_tokens": [23, 24, 3], "begin_suppress_tokens": [25, 3]},
        {"repetition_penalty": 1.4, "encoder_no_repeat_ngram_size": 2, "bad_words_ids": [[26], [27, 28]]},
    ],
)
def test_equals_the_eager_model_with_the_others_suppressed(
    eager: Any, compiled: CompiledModel, options: dict[str, Any]
) -> None:
    ids, mask = sources(PAD)
    suppressed = sorted({*OTHERS, *options.get("suppress_tokens", ())})
    # Probabilities of the whole model count the suppressed tokens until they are normalised again.
    options = {**options, "max_new_tokens": 14, "renormalize_logits": True}
    expected = eager.generate(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        **{**options, "suppress_tokens": suppressed},
    )
    written = compiled.generate(ids, mask, **options)
    np.testing.assert_array_equal(written, expected.numpy())
    assert set(written.reshape(-1).tolist()) <= {0, EOS, PAD, *SHORT}


def test_the_folder_keeps_it_and_many_equals_one(compiled: CompiledModel, tmp_path: Path) -> None:
    loaded = tbt_compile.load(compiled.save(tmp_path / "folder"))
    assert loaded.shortlist.tolist() == sorted({0, EOS, PAD, *SHORT})
    ids, mask = sources(PAD)
    rows = [row[: int(kept.sum())] for row, kept in zip(ids, mask, strict=True)]
    one = loaded.generate(ids, mask, num_beams=3, max_new_tokens=9)
    for row, many in zip(one, loaded.generate_many(rows, num_beams=3, max_new_tokens=9), strict=True):
        np.testing.assert_array_equal(row[: len(many)], many)


def test_a_prompt_may_hold_any_token(eager: Any, compiled: CompiledModel) -> None:
    ids, mask = sources(PAD)
    prompt = np.full((len(ids), 2), OTHERS[3])
    heard: list[Any] = []
    written = compiled.generate(
        ids, mask, decoder_input_ids=prompt, max_new_tokens=5, on_tokens=heard.append, repetition_penalty=1.2
    )
    expected = eager.generate(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        decoder_input_ids=torch.tensor(prompt),
        do_sample=False,
        max_new_tokens=5,
        suppress_tokens=OTHERS,
        repetition_penalty=1.2,
    )
    np.testing.assert_array_equal(written, expected.numpy())
    np.testing.assert_array_equal(np.stack(heard, axis=1), written[:, -len(heard) :])


def test_an_output_layer_without_bias() -> None:
    eager = trained(models.t5(layers=1), "1-1-1")
    before = eager.get_output_embeddings()
    compiled = tbt_compile.lower(eager, shortlist=range(10, 60))
    assert eager.get_output_embeddings() is before
    ids, mask = sources(eager.config.pad_token_id)
    outside = sorted(set(range(VOCABULARY)) - set(compiled.shortlist.tolist()))
    np.testing.assert_array_equal(
        compiled.generate(ids, mask, max_new_tokens=8),
        eager_tokens(eager, ids, mask, max_new_tokens=8, suppress_tokens=outside),
    )


def test_a_decoder_goes_on_with_prompts_of_any_tokens() -> None:
    eager = trained(models.gpt2(layers=1), "2-2-2")
    compiled = tbt_compile.lower(eager, shortlist=SHORT)
    ids, mask = prompts(PAD)
    outside = sorted(set(range(VOCABULARY)) - set(compiled.shortlist.tolist()))
    np.testing.assert_array_equal(
        compiled.generate(ids, mask, max_new_tokens=8),
        eager_tokens(eager, ids, mask, max_new_tokens=8, suppress_tokens=outside),
    )


def test_transformers_sees_the_whole_vocabulary(compiled: CompiledModel) -> None:
    from tbt_compile.adapters.compiled_seq2seq import CompiledModelForSeq2SeqLM

    ids, mask = sources(PAD)
    model = CompiledModelForSeq2SeqLM(compiled)
    logits = model(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        decoder_input_ids=torch.full((len(ids), 1), EOS),
    ).logits
    assert logits.shape == (len(ids), 1, VOCABULARY)
    assert (torch.isfinite(logits[0, 0]).nonzero()[:, 0].numpy() == compiled.shortlist).all()


@pytest.mark.parametrize("name", ["eos_token_id", "forced_bos_token_id", "forced_eos_token_id"])
def test_an_end_that_cannot_be_written_is_refused(compiled: CompiledModel, name: str) -> None:
    with pytest.raises(GenerationError, match=f"{name}: token 4 is not in the shortlist of 46 tokens"):
        compiled.generate([[5, 6]], **{name: 4})


@pytest.mark.parametrize("tokens", [[], [-1], [VOCABULARY], [1.5]])
def test_tokens_that_do_not_exist_are_refused(eager: Any, tokens: list[Any]) -> None:
    with pytest.raises(LoweringError, match=f"token ids from 0 to {VOCABULARY - 1}"):
        tbt_compile.lower(eager, shortlist=tokens)
