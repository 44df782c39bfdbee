"""The engines that are compared: each writes tokens for one example at a time, greedily, with one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from students import compiled_folder, folder_bytes
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.bench.engines import check_counts
from tbt_compile.bench.engines.llama_cpp import quantize, write_gguf
from tbt_compile.bench.model_shapes import Shape

LLAMA_CPP = ("Q8_0", "Q4_0", "TQ2_0")
SPEED_TOKENS, TURNS = 32, 15


@dataclass(frozen=True)
class Engine:
    """A model in an engine.

    Attributes:
        size: in bytes, as it lies on disk.
        write: from an example to the tokens that follow it, up to an end token or a number of tokens; with
            `exactly`, that many.
    """

    size: int
    write: Callable[[Any, int, bool], list[int]]


def torch_text(model: PreTrainedModel) -> Engine:
    """PyTorch in float32; an example is the token ids of a prompt."""
    ends = model.generation_config.eos_token_id

    @torch.no_grad()
    def write(prompt: list[int], most: int, exactly: bool) -> list[int]:
        least = {"min_new_tokens": most} if exactly else {}
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        found = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=most, **least)
        return until_end(found[0, len(prompt) :].tolist(), ends)

    return Engine(sum(weight.nbytes for weight in model.parameters()), write)


def compiled_text(output: Path, recipe: str) -> Engine:
    """A compiled student."""
    folder = compiled_folder(output, recipe)
    model = tbt_compile.load(folder, num_threads=1)
    ends = model.description["generation"]["eos_token_id"]

    def write(prompt: list[int], most: int, exactly: bool) -> list[int]:
        least = {"min_new_tokens": most} if exactly else {}
        found = model.generate([prompt], attention_mask=[[1] * len(prompt)], max_new_tokens=most, **least)
        return until_end(found[0][len(prompt) :].tolist(), ends)

    return Engine(folder_bytes(folder), write)


def llama_cpp_text(model: PreTrainedModel, folder: Path, kind: str, longest: int) -> Engine:
    """The same model in llama.cpp, quantized by it.

    Args:
        model: a Llama.
        folder: for the files.
        kind: of the quantization, one of `LLAMA_CPP`.
        longest: tokens of a prompt and what follows it, at most.
    """
    import llama_cpp
    import numpy as np

    file = _gguf(model, folder, kind)
    loaded = llama_cpp.Llama(
        str(file), n_ctx=longest, n_batch=longest, n_threads=1, n_threads_batch=1, verbose=False
    )
    ends, vocabulary = model.generation_config.eos_token_id, model.config.vocab_size

    def write(prompt: list[int], most: int, exactly: bool) -> list[int]:
        loaded.reset()
        tokens, made = prompt, []
        while len(made) < most:
            loaded.eval(tokens)
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(loaded.ctx), shape=(vocabulary,))
            if exactly:
                logits[ends] = -np.inf
            tokens = [int(logits.argmax())]
            if tokens[0] == ends:
                break
            made += tokens
        return made

    return Engine(file.stat().st_size, write)


def _gguf(model: PreTrainedModel, folder: Path, kind: str) -> Path:
    """The model as llama.cpp quantizes it, written once."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, file = folder / "f16.gguf", folder / f"{kind}.gguf"
    if not whole.exists():
        config = model.config
        shape = Shape(
            "teacher",
            "llama",
            config.vocab_size,
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.max_position_embeddings,
            config.num_key_value_heads,
        )
        write_gguf(whole, shape, model)
    if not file.exists():
        quantize(whole, file, kind)
    return file


def until_end(tokens: list[int], ends: int | list[int]) -> list[int]:
    """The tokens before the first end token."""
    stops = ends if isinstance(ends, list) else [ends]
    first = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:first]


def take_turns(
    engines: Mapping[str, Engine], examples: Sequence[Any], tokens: int = SPEED_TOKENS, turns: int = TURNS
) -> dict[str, dict[str, float]]:
    """Time the engines in turns, by the CPU time of this process, which other programs disturb little.

    Args:
        engines: by name.
        examples: each turn takes the next one.
        tokens: to write after the first.
        turns: after one to warm up.

    Returns:
        By engine medians: `first_ms`, the time of reading an example and writing a token, `token_ms` of each
        further token, and `tokens_per_second` of those.
    """
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(turns + 1):
        for name, engine in engines.items():
            for count in (1, tokens + 1):
                start = time.process_time()
                written = engine.write(examples[turn % len(examples)], count, True)
                times.setdefault((name, count), []).append(time.process_time() - start)
                check_counts([len(written)], 1, count)
    found = {}
    for name in engines:
        short, long = times[name, 1][1:], times[name, tokens + 1][1:]
        token = median(after - before for after, before in zip(long, short, strict=True)) / tokens
        found[name] = {
            "first_ms": 1e3 * median(short),
            "token_ms": 1e3 * token,
            "tokens_per_second": 1 / token,
        }
    return found
