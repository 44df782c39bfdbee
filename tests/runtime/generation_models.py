"""Tiny random encoder-decoders, run by torch both under transformers' `generate` and under this package's."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import torch
import transformers
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from tbt_compile.runtime.generation import GenerationSettings, Scores, Tokens, generate

VOCABULARY = 48
PAD, END = 1, 2


class TorchSession:
    """A `DecoderSession` around a transformers encoder-decoder; counts the rows it computes."""

    def __init__(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        self.model = model
        self.mask = attention_mask
        self.encoded = model.get_encoder()(input_ids, attention_mask=attention_mask).last_hidden_state
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.row_steps = 0

    def step(self, tokens: Tokens) -> Scores:
        self.row_steps += len(tokens)
        outputs = self.model(
            encoder_outputs=(self.encoded,),
            attention_mask=self.mask,
            decoder_input_ids=torch.from_numpy(np.ascontiguousarray(tokens)),
            past_key_values=self.cache,
            use_cache=True,
        )
        return outputs.logits[:, -1].float().numpy()

    def reorder(self, rows: Tokens) -> None:
        index = torch.from_numpy(rows)
        self.cache.reorder_cache(index)
        self.encoded, self.mask = self.encoded[index], self.mask[index]


@functools.cache
def model(name: str) -> Any:
    """A seeded model with logits spread enough for beams to differ and narrow enough for them to compete."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    tokens = {
        "vocab_size": VOCABULARY,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": END,
    }
    sizes = {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 64,
        "init_std": 0.5,
        "forced_eos_token_id": None,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(len(name))
    if name == "bart":
        built = transformers.BartForConditionalGeneration(
            transformers.BartConfig(**tokens, **sizes, bos_token_id=0)
        )
    elif name == "mbart":
        built = transformers.MBartForConditionalGeneration(
            transformers.MBartConfig(**tokens, **sizes, bos_token_id=0)
        )
    elif name == "marian":
        tokens["decoder_start_token_id"] = PAD
        built = transformers.MarianMTModel(transformers.MarianConfig(**tokens, **sizes))
    else:
        tokens.update(pad_token_id=0, decoder_start_token_id=0)
        t5 = {
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 32,
            "num_layers": 1,
            "num_heads": 2,
            "initializer_factor": 2.0,
            "tie_word_embeddings": False,
        }
        built = transformers.T5ForConditionalGeneration(transformers.T5Config(**tokens, **t5))
    # The two searches compute different numbers of rows together. In double precision that does not change
    # the logits, which both round to float32.
    built.eval().double()
    with torch.no_grad():
        ids, mask = batch()
        logits = built(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits
        built.lm_head.weight.mul_(1.5 / logits.std())
    return built


@functools.cache
@torch.no_grad()
def ends(name: str) -> tuple[int, ...]:
    """Two tokens that the model emits soon: as end tokens they make sequences of different lengths."""
    ids, mask = batch(8, seed=1)
    emitted = model(name).generate(
        ids, attention_mask=mask, eos_token_id=None, do_sample=False, max_new_tokens=6
    )
    tokens, counts = emitted[:, 3].unique(return_counts=True)
    return tuple(tokens[counts.argsort(descending=True)[:2]].tolist())


def batch(size: int = 3, length: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and attention mask, int64 [size, length]; rows of different lengths, padded on the right."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (size, length), generator=random)
    lengths = torch.randint(3, length + 1, (size, 1), generator=random)
    mask = (torch.arange(length) < lengths).long()
    return torch.where(mask.bool(), ids, PAD), mask


@torch.no_grad()
def both(
    name: str, size: int = 3, seed: int = 0, decoder_input_ids: Any = None, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens from transformers and those from this package."""
    network = model(name)
    ids, mask = batch(size, seed=seed)
    prompt = {} if decoder_input_ids is None else {"decoder_input_ids": torch.tensor(decoder_input_ids)}
    expected = network.generate(ids, attention_mask=mask, do_sample=False, **prompt, **settings).numpy()
    ours = GenerationSettings.from_dict(
        network.generation_config.to_dict(),
        max_position_embeddings=getattr(network.config, "max_position_embeddings", None),
    ).replace(**settings)
    session = TorchSession(network, ids, mask)
    found = generate(session, ours, size, decoder_input_ids=decoder_input_ids, encoder_input_ids=ids.numpy())
    return expected, found
