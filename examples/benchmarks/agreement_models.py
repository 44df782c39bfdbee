"""Small models of every family, from configs: with large random weights, or trained on a Markov chain.

In the chain every token has three successors, with probabilities 0.7, 0.2 and 0.1. A model reads a sentence
and continues it, which takes a few hundred steps to learn. An encoder reads the sentence in reverse, with the
token that matters first. The probabilities of a trained model are then as uneven as those of a language
model, unlike those of random weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY, WIDTH, INNER, HEADS, LAYERS, POSITIONS = 200, 64, 128, 2, 2, 64
LONGEST, PAD, EOS = 32, 1, 2
_FIRST = 3  # the first token that is not special
_FOLLOWERS = (0.7, 0.2, 0.1)
_ROWS, _LEARNING_RATE = 32, 3e-3
# Deviations of random weights, large enough for outputs to differ between sentences.
_DEVIATION = {"t5": {"initializer_factor": 3.0}, "bart-like": {"init_std": 0.5}, "opt": {"init_std": 0.5}}
_OTHER_DEVIATION = {"initializer_range": 0.5}
_BART_LIKE = {
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
    "max_position_embeddings": POSITIONS,
    "forced_eos_token_id": None,
    "decoder_start_token_id": EOS,
}
_LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "max_position_embeddings": POSITIONS,
}
_OPT = {
    "hidden_size": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "ffn_dim": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}
_GPT2 = {
    "n_embd": WIDTH,
    "n_positions": POSITIONS,
    "n_layer": LAYERS,
    "n_head": HEADS,
}
_T5 = {
    "d_model": WIDTH,
    "d_kv": WIDTH // HEADS,
    "d_ff": INNER,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": PAD,
}
# Family -> (model class, config class, config fields).
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART_LIKE),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", _BART_LIKE),
    "marian": ("MarianMTModel", "MarianConfig", _BART_LIKE | {"activation_function": "swish"}),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "m2m100": (
        "M2M100ForConditionalGeneration",
        "M2M100Config",
        # LayerDrop would leave the scales of dropped layers uninitialized.
        _BART_LIKE | {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "opt": ("OPTForCausalLM", "OPTConfig", _OPT),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA),
}
Sentences = list[list[int]]


def new_model(family: str, random_weights: bool) -> Any:
    """A full-precision model; with `random_weights` it has large weights and is not to be trained."""
    model_class, config_class, values = FAMILIES[family]
    if random_weights:
        kind = "bart-like" if "encoder_ffn_dim" in values else family
        values = values | _DEVIATION.get(kind, _OTHER_DEVIATION)
    torch.manual_seed(0)
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": EOS}
    return getattr(transformers, model_class)(getattr(transformers, config_class)(**tokens, **values))


def random_sentences(count: int, seed: int) -> Sentences:
    """Random tokens in sentences of random lengths up to `LONGEST`, without special tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, LONGEST + 1, count)
    return [generator.integers(_FIRST, VOCABULARY, length).tolist() for length in lengths]


def chain(count: int, length: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Sentences of the chain, int64 [count, length].

    Args:
        count: number of sentences.
        length: tokens of each.
        seed: of the sentences; the chain itself is fixed.
    """
    table = np.stack([np.random.default_rng(way).permutation(VOCABULARY - _FIRST) for way in range(3)])
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, VOCABULARY - _FIRST, (count, length))
    for place in range(1, length):
        way = generator.choice(len(_FOLLOWERS), count, p=_FOLLOWERS)
        tokens[:, place] = table[way, tokens[:, place - 1]]
    return tokens + _FIRST


def chain_sentences(count: int, seed: int) -> Sentences:
    """Sentences of the chain, of random lengths up to `LONGEST`."""
    lengths = np.random.default_rng(seed).integers(1, LONGEST + 1, count)
    return [row[:length].tolist() for row, length in zip(chain(count, LONGEST, seed), lengths, strict=True)]


def train(model: Any, steps: int, new_tokens: int) -> float:
    """Train a model, quantized or not, to continue the chain.

    Args:
        model: trained in place.
        steps: optimizer steps.
        new_tokens: tokens of a continuation.

    Returns:
        The last loss.
    """
    torch.set_num_threads(1)  # models this small gain nothing from more
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    model.train()
    loss = torch.tensor(0.0)
    for step in range(steps):
        # Lengths vary from step to step. The seeds are not used for test sentences.
        length = 2 + step % (LONGEST - 1)
        tokens = torch.tensor(chain(_ROWS, length + new_tokens, 10_000 + step))
        if model.config.is_encoder_decoder:
            ends = torch.full((_ROWS, 1), EOS)
            source, target = tokens[:, :length].flip(1), torch.cat([tokens[:, length:], ends], 1)
            loss = model(input_ids=source, labels=target).loss
        else:
            loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())
