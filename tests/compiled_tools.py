"""Models made ready for lowering, sources of different lengths, and exact comparison of sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import VOCABULARY
from once import once
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import CompiledModel, FrozenModel, Recipe

Tokens = np.ndarray[Any, np.dtype[np.int64]]
Scores = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Case:
    """A prepared model, the compiled one, and its saved folder."""

    eager: PreTrainedModel
    compiled: CompiledModel
    folder: Path

    @classmethod
    def shared(cls, model: PreTrainedModel, recipe: str, name: str, factory: pytest.TempPathFactory) -> Case:
        """A model that the first process of a test run to ask for it compiles and saves.

        The folder has a file in place of a tokenizer.
        """
        eager = trained(model, recipe)

        def make(folder: Path) -> None:
            tbt_compile.lower(eager).save(folder / "model", tokenizer=_Words())

        folder = once(factory, name, make) / "model"
        compiled = tbt_compile.load(folder)
        assert isinstance(compiled, CompiledModel)
        return cls(eager, compiled, folder)

    def loaded(self, **options: Any) -> CompiledModel:
        """The model in the folder."""
        model = tbt_compile.load(self.folder, **options)
        assert isinstance(model, CompiledModel)
        return model


class _Words:
    """As much of a tokenizer as saving needs."""

    def save_pretrained(self, folder: str | Path) -> None:
        (Path(folder) / "tokenizer.json").write_text('{"words": 3}')


def trained(model: PreTrainedModel, recipe: str | Recipe) -> PreTrainedModel:
    """A prepared model whose scales come from one batch."""
    tbt_compile.prepare(model, recipe)
    two_parts = model.config.is_encoder_decoder
    ids, mask = sources(model.config.pad_token_id) if two_parts else prompts(model.config.pad_token_id)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if two_parts:
        inputs["decoder_input_ids"] = torch.tensor(ids[:, :5])
    with torch.no_grad():
        model(**inputs)
    return model.eval()


def sources(pad: int, rows: int = 5, longest: int = 13) -> tuple[Tokens, Tokens]:
    """Random sources of lengths `longest`, `longest` - 2, ...; ids and mask, padded on the right."""
    generator = np.random.default_rng(3)
    ids = generator.integers(3, VOCABULARY, (rows, longest))
    lengths = [max(1, longest - 2 * row) for row in range(rows)]
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    return np.where(mask == 1, ids, pad), mask


def prompts(pad: int, rows: int = 5, longest: int = 13) -> tuple[Tokens, Tokens]:
    """`sources`, padded on the left."""
    ids, mask = sources(pad, rows, longest)
    return np.ascontiguousarray(ids[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])


def eager_tokens(model: PreTrainedModel | FrozenModel, ids: Tokens, mask: Tokens, **settings: Any) -> Tokens:
    """The result of transformers with the frozen model, whose floats have the bits of compiled code."""
    frozen = model if isinstance(model, FrozenModel) else tbt_compile.freeze(model)
    output = frozen.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False, **settings
    )
    return output.numpy()  # type: ignore[no-any-return]


def step_logits(model: CompiledModel, ids: Tokens, mask: Tokens, decoder: Tokens) -> list[Scores]:
    """Logits [B, V] after every column of `decoder` [B, T], each fed on its own."""
    session = model.session(ids, mask)
    return [session.step(decoder[:, i : i + 1]).copy() for i in range(decoder.shape[1])]


def assert_rows_do_not_depend_on_the_batch(
    model: CompiledModel, pad: int, padding: tuple[int, ...] = (1, 19, 51), **settings: Any
) -> None:
    """A source alone, in a batch, and with more padding: the same logits and tokens, bit for bit."""
    ids, mask = sources(pad)
    decoder = np.random.default_rng(4).integers(3, VOCABULARY, (len(ids), 3))
    together = step_logits(model, ids, mask, decoder)
    tokens = model.generate(ids, mask, **settings)
    for more in padding:
        width = ((0, 0), (0, more))
        wide_ids, wide_mask = np.pad(ids, width, constant_values=pad), np.pad(mask, width)
        for got, expected in zip(step_logits(model, wide_ids, wide_mask, decoder), together, strict=True):
            assert np.array_equal(got, expected)
        assert np.array_equal(model.generate(wide_ids, wide_mask, **settings), tokens)
    for row, length in enumerate(mask.sum(1)):
        one = slice(row, row + 1)
        alone = step_logits(model, ids[one, :length], mask[one, :length], decoder[one])
        for got, expected in zip(alone, together, strict=True):
            assert np.array_equal(got[0], expected[row])
        output = model.generate(ids[one, :length], **settings)[0]
        assert np.array_equal(output, tokens[row, : len(output)])
        assert set(tokens[row, len(output) :].tolist()) <= {pad}
