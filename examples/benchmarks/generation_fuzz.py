"""Random generation configs: compiled models write what transformers writes, or refuse a field by name.

    python examples/benchmarks/generation_fuzz.py --draws 2000
    python examples/benchmarks/generation_fuzz.py --families gpt2 --seed 7 --draws 500 --json fuzz.json

Every draw sets a few fields of a `GenerationConfig`, as Python, NumPy or torch numbers, in lists, tuples,
sets, ranges, arrays or dicts. Half of the draws leave them in the model's config, which `lower` reads; the
others pass them to `generate`. The input is a padded batch. Outcomes:

*equal*      both write the same tokens
*refused*    the compiled model refuses, and names one of the fields
*invalid*    only transformers refuses
*different*  neither refuses, and the tokens differ; or a refusal names no field

The model is compiled once. The exit status is 1 if a draw is *different*.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from agreement_models import EOS, PAD, POSITIONS, new_model
from transformers import GenerationConfig

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.adapters.decode_settings import decode_settings
from tbt_compile.errors import TbtError

FAMILIES = ("bart", "gpt2")
Fields = dict[str, Any]
Draw = Callable[[Random, int], Any]


def number(value: float, random: Random) -> Any:
    """A number as one of the types that configs hold."""
    if isinstance(value, int):
        kinds: list[Callable[[Any], Any]] = [int, int, int, np.int64, torch.tensor]
    else:
        kinds = [float, float, float, np.float64, np.float32, torch.tensor]
    return random.choice(kinds)(value)


def several(values: list[Any], random: Random) -> Any:
    """Numbers as one of the collections that configs hold."""
    return random.choice([list, list, tuple, set, np.array, torch.tensor])(values)


def token(random: Random, vocabulary: int) -> int:
    """A token id, now and then a special one or one outside the vocabulary."""
    return random.choice([random.randrange(vocabulary)] * 80 + [0, PAD, EOS, vocabulary, -1])


def tokens(random: Random, vocabulary: int) -> Any:
    """One token id or several."""
    if random.random() < 0.3:
        return number(token(random, vocabulary), random)
    if random.random() < 0.1:
        start = random.randrange(vocabulary - 3)
        return range(start, start + 3)
    return several([token(random, vocabulary) for _ in range(random.randint(1, 4))], random)


def sequences(random: Random, vocabulary: int) -> list[Any]:
    """Sequences of one to three token ids."""
    lengths = [random.choice([1, 1, 2, 3]) for _ in range(random.randint(1, 4))]
    return [[token(random, vocabulary) for _ in range(length)] for length in lengths]


def biases(random: Random, vocabulary: int) -> Any:
    """A dict of sequences, or pairs."""
    pairs = [(tuple(ids), random.uniform(-30, 30)) for ids in sequences(random, vocabulary)]
    return dict(pairs) if random.random() < 0.7 else [[list(ids), bias] for ids, bias in pairs]


def one_of(*values: Any) -> Draw:
    """One of some values, each as a number of any type if it is one."""

    def draw(random: Random, _vocabulary: int) -> Any:
        value = random.choice(values)
        plain = isinstance(value, (bool, str)) or value is None or not isinstance(value, (int, float))
        return value if plain else number(value, random)

    return draw


def start_and_factor(random: Random, _vocabulary: int) -> Any:
    """When ends are favored, and how much."""
    pair = [random.randint(0, 5), random.choice([0.5, 1.1, 1.9])]
    return random.choice([list, tuple])(pair)


FIELDS: dict[str, Draw] = {
    "num_beams": one_of(1, 1, 2, 3, 4),
    "num_return_sequences": one_of(1, 1, 2),
    "max_new_tokens": one_of(1, 4, 8, 12, 0),
    "max_length": one_of(5, 17, 22, 10**12),
    "min_new_tokens": one_of(0, 2, 5, 30),
    "min_length": one_of(0, 3, 18),
    "early_stopping": one_of(True, False, "never", "always"),
    "length_penalty": one_of(0.0, 1.0, 2.0, -1.0, 0.7, 2),
    "no_repeat_ngram_size": one_of(0, 1, 2, 3),
    "encoder_no_repeat_ngram_size": one_of(0, 1, 2, 3),
    "repetition_penalty": one_of(1.0, 1.3, 0.8, 2, 0.0),
    "encoder_repetition_penalty": one_of(1.0, 1.3, 0.8, 2),
    "bad_words_ids": sequences,
    "sequence_bias": biases,
    "forced_bos_token_id": lambda random, size: number(token(random, size), random),
    # One: several have the same score, and a beam search leaves ties to torch.topk, which has no order.
    "forced_eos_token_id": lambda random, size: several([token(random, size)], random),
    "suppress_tokens": tokens,
    "begin_suppress_tokens": tokens,
    "exponential_decay_length_penalty": start_and_factor,
    "remove_invalid_values": one_of(True, False, np.True_),
    "renormalize_logits": one_of(True, False, np.True_),
    "decoder_start_token_id": lambda random, size: number(token(random, size), random),
    "bos_token_id": lambda random, size: number(token(random, size), random),
    "eos_token_id": tokens,
    "pad_token_id": lambda random, size: number(token(random, size), random),
    "do_sample": one_of(False),
    "temperature": one_of(0.7, 1.0),
    "top_k": one_of(5, 50),
    "top_p": one_of(0.9),
    "min_p": one_of(0.1),
    "top_h": one_of(0.4),
    "typical_p": one_of(0.9),
    "epsilon_cutoff": one_of(0.1),
    "eta_cutoff": one_of(0.1),
    "use_cache": one_of(True, False),
    "cache_implementation": one_of("dynamic", "quantized"),
    "disable_compile": one_of(True),
    "prefill_chunk_size": one_of(4),
    "output_scores": one_of(True),
    "return_dict_in_generate": one_of(False, True),
    "num_assistant_tokens": one_of(5),
    "is_assistant": one_of(False),
    "guidance_scale": one_of(1, 1.0, 1.5),
    "num_beam_groups": one_of(1, 2),
    "diversity_penalty": one_of(0.0, 0.5),
    "penalty_alpha": one_of(0.0, 0.6),
    "token_healing": one_of(False),
    "prompt_lookup_num_tokens": one_of(2),
    "max_time": one_of(100.0),
    "stop_strings": one_of("."),
    "use_mtp": one_of(False),
    "low_memory": one_of(False),
    "num_beam": one_of(4),
}


class Fuzz:
    """Draws configs for one compiled model.

    Args:
        eager: the prepared model, in evaluation mode; its generation config is replaced by every draw.
        compiled: the compiled model.
        seed: of the draws.
    """

    def __init__(self, eager: Any, compiled: CompiledModel, seed: int) -> None:
        self.eager, self.compiled, self.random = eager, compiled, Random(seed)
        self.vocabulary = compiled.description["vocabulary"]
        self.own = eager.generation_config
        self.base = {
            name: getattr(self.own, name)
            for name in ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
        }

    def draw(self) -> tuple[str, str]:
        """Draw a config and a batch; returns the outcome and what was drawn."""
        names = self.random.sample(sorted(FIELDS), self.random.randint(1, 6))
        fields = {name: FIELDS[name](self.random, self.vocabulary) for name in names}
        in_config = self.random.random() < 0.5
        ids, mask = self._batch()
        given = mask if self.random.random() < 0.7 else None
        eager = self._outcome(lambda: self._by_transformers(ids, given, fields, in_config))
        compiled = self._outcome(lambda: self._by_compiled(ids, given, fields, in_config))
        outcome = self._compare(eager, compiled, fields)
        return outcome, f"{'config' if in_config else 'call'} {fields}: {compiled} instead of {eager}"

    def _batch(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        rows, length = self.random.randint(1, 3), self.random.randint(2, 12)
        lengths = [length, *(self.random.randint(1, length) for _ in range(rows - 1))]
        mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int64)
        ids = np.array([[self.random.randrange(3, self.vocabulary) for _ in range(length)]] * rows)
        ids = np.where(mask == 1, ids, PAD)
        if self.compiled.is_encoder_decoder:
            return ids, mask
        return np.ascontiguousarray(ids[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])

    def _config(self, fields: Fields) -> GenerationConfig:
        config = GenerationConfig(**self.base)
        for name, value in fields.items():
            setattr(config, name, value)
        return config

    def _by_transformers(self, ids: Any, mask: Any, fields: Fields, in_config: bool) -> Any:
        limit = {"max_new_tokens": 8} if not {"max_new_tokens", "max_length"} & fields.keys() else {}
        self.eager.generation_config = self._config({**limit, **fields} if in_config else limit)
        given = {} if in_config else {name: value for name, value in fields.items() if name != "do_sample"}
        inputs = {"do_sample": False, **given}
        if mask is not None:
            inputs["attention_mask"] = torch.tensor(mask)
        try:
            with torch.no_grad():
                found = self.eager.generate(torch.tensor(ids), **inputs)
        finally:
            self.eager.generation_config = self.own
        return getattr(found, "sequences", found).numpy()

    def _by_compiled(self, ids: Any, mask: Any, fields: Fields, in_config: bool) -> Any:
        limit = {"max_new_tokens": 8} if not {"max_new_tokens", "max_length"} & fields.keys() else {}
        self.eager.generation_config = self._config({**limit, **fields} if in_config else limit)
        try:
            model = reconfigured(self.compiled, self.eager)
        finally:
            self.eager.generation_config = self.own
        return model.generate(ids, mask, **({} if in_config else fields))

    @staticmethod
    def _outcome(run: Callable[[], Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return run()
            except Exception as error:  # any: what counts is who raises it
                return error

    @staticmethod
    def _compare(eager: Any, compiled: Any, fields: Fields) -> str:
        if isinstance(compiled, TbtError):
            named = [*fields, "max_length", "max_new_tokens", "decoder token", "NaN", "forced tokens"]
            named.append("input_ids without attention_mask")
            return "refused" if any(name in str(compiled) for name in named) else "different"
        if isinstance(compiled, Exception):
            return "different"
        if isinstance(eager, Exception):
            return "invalid"
        return "equal" if np.array_equal(eager, compiled) else "different"


def reconfigured(compiled: CompiledModel, eager: Any) -> CompiledModel:
    """The compiled model as `lower` would make it with the eager model's current generation config."""
    recorded = ("limits", "vocabulary", "max_positions")
    limits = {name: compiled.description[name] for name in recorded}
    settings = decode_settings(eager, compiled.description["layers"], limits)
    description = {**compiled._common, **json.loads(json.dumps(settings))}
    model = CompiledModel(compiled._builds, description, compiled._tensors, compiled.num_threads)
    model._bound_library = compiled._bound()
    return model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES), help="see agreement_models")
    parser.add_argument("--draws", type=int, default=2000, help="per family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {}
    for family in chosen.families.split(","):
        eager = tbt_compile.prepare(new_model(family, random_weights=True), "2-2-2").eval()
        ids = torch.arange(3, POSITIONS)[None]
        with torch.no_grad():  # initializes the scales
            eager(input_ids=ids, **({"decoder_input_ids": ids} if eager.config.is_encoder_decoder else {}))
        fuzz = Fuzz(eager, tbt_compile.lower(eager), chosen.seed)
        counts[family] = Counter()
        for number in range(chosen.draws):
            outcome, drawn = fuzz.draw()
            counts[family][outcome] += 1
            if outcome == "different":
                print(f"{family} {number}: {drawn}")
        print(family, ", ".join(f"{name} {count}" for name, count in sorted(counts[family].items())))
    if chosen.json:
        chosen.json.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return int(any(count["different"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
