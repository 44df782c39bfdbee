"""Logits of compiled models and of PyTorch, compared bit for bit over long outputs.

    python examples/benchmarks/bit_equal.py
    python examples/benchmarks/bit_equal.py --gguf SmolLM2-135M-Instruct-Q8_0.gguf --recipes 8-8-8,2-2-2

Every prompt is continued by the tokens that the compiled model prefers. The same tokens then go through
the compiled model and the frozen one in PyTorch: one prompt at a time, in batches of 8 with padding, with one
thread and two. The models are those of `hashes.py`, of 24 layers, or a decoder-only model in a GGUF file,
whose activation scales are set by one batch. The exit status is 1 if any logit differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hashes import LAYERS, RECIPES, Array, Logits, compiled, eager, frozen_model
from torch import nn

import tbt_compile
from tbt_compile.freezing import FrozenModel

BATCH, EXTRA_PADDING, LONGEST = 8, 5, 21


def from_gguf(path: Path) -> nn.Module:
    """The float32 model of a GGUF file."""
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()  # type: ignore[no-any-return]


def frozen_gguf(path: Path, recipe: str) -> FrozenModel:
    """Quantize the model of a GGUF file; one batch of random tokens sets the scales."""
    prepared: Any = tbt_compile.prepare(from_gguf(path), recipe)
    torch.manual_seed(0)
    with torch.no_grad():
        prepared(torch.randint(3, prepared.config.vocab_size, (4, 32)))
    return tbt_compile.freeze(prepared.eval())


def prompts(count: int, vocabulary: int) -> list[Array]:
    """Random prompts of 1 to LONGEST tokens, int64 [1, S] each."""
    generator = np.random.default_rng(3)
    return [
        generator.integers(3, vocabulary, (1, length)) for length in generator.integers(1, LONGEST + 1, count)
    ]


def padded(rows: list[Array], left: bool) -> tuple[Array, Array]:
    """Ids and mask [B, S] of a batch, with more padding than the longest row needs."""
    width = max(row.shape[1] for row in rows) + EXTRA_PADDING
    ids, mask = np.ones((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        place = slice(width - row.shape[1], None) if left else slice(0, row.shape[1])
        ids[index, place], mask[index, place] = row[0], 1
    return ids, mask


def preferred(model: Any, ids: Array, steps: int) -> Array:
    """The tokens that a compiled model prefers after a prompt, int64 [1, steps]."""
    session = model.session(ids, np.ones_like(ids))
    newest = np.full((1, 1), 2) if model.is_encoder_decoder else ids
    tokens = [newest] if model.is_encoder_decoder else []
    while len(tokens) < steps:
        newest = session.step(newest).argmax(1)[:, None]
        tokens.append(newest)
    return np.concatenate(tokens, 1)


def all_logits(logits: Logits, rows: list[Array], decoder: list[Array], size: int, left: bool) -> Array:
    """The logits of every prompt, [T, prompts, V], in batches of `size`.

    Args:
        logits: of one batch.
        rows: the prompts.
        decoder: the tokens that follow each prompt.
        size: of a batch; in batches of one there is no padding.
        left: whether padding comes first.

    Returns:
        The logits after the prompt and after every token.
    """
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids, mask = (part[0], np.ones_like(part[0])) if size == 1 else padded(part, left)
        found.append(logits(ids, mask, np.concatenate(decoder[start : start + size])))
    return np.concatenate(found, 1)


def compare(name: str, frozen: FrozenModel, count: int, steps: int, alone: int) -> dict[str, Any]:
    """Compare one model everywhere, and print a line for each way to compute.

    Args:
        name: of the model.
        frozen: the model.
        count: number of prompts.
        steps: tokens after each.
        alone: number of prompts that PyTorch computes alone.

    Returns:
        The shape of the logits, and by way the number of logits that differ.
    """
    config: Any = frozen.module.config
    left = not config.is_encoder_decoder
    with tempfile.TemporaryDirectory() as work:
        folder = tbt_compile.lower(frozen).save(Path(work) / "model")
        rows = prompts(count, config.vocab_size)
        decoder = [preferred(tbt_compile.load(folder, num_threads=1), row, steps) for row in rows]
        engines = {f"{threads} threads": compiled(folder, threads) for threads in (1, 2)}
        engines["PyTorch"] = eager(frozen)
        first, differing = None, {}
        for (engine, logits), size in itertools.product(engines.items(), (1, BATCH)):
            start, used = time.time(), alone if engine == "PyTorch" and size == 1 else count
            found = all_logits(logits, rows[:used], decoder[:used], size, left)
            first = found if first is None else first
            way = f"{engine}, {used} prompts alone" if size == 1 else f"{engine}, batches of {size}"
            differing[way] = int((found.view(np.int32) != first[:, :used].view(np.int32)).sum())
            print(f"| {name} | {way} | {differing[way]:,} | {time.time() - start:.0f} |", flush=True)
    assert first is not None
    return {"model": name, "logits": list(first.shape), "outputs": len({row.tobytes() for row in decoder}),
            "differing": differing}  # fmt: skip


def main() -> None:
    """Compare every model, print a table, and exit with 1 if any logit differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--families", default="llama,bart", help="comma-separated")
    parser.add_argument("--gguf", type=Path, help="a decoder-only model, in place of the families")
    parser.add_argument("--prompts", type=int, default=20, help="number of prompts")
    parser.add_argument("--steps", type=int, default=64, help="tokens after each prompt")
    parser.add_argument("--alone", type=int, help="prompts that PyTorch computes alone; default: all")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the models of the families")
    parser.add_argument("--json", type=Path, help="write the results to this file; a run resumes there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # its threads wait actively, also beside other work
    written = arguments.json is not None and arguments.json.exists()
    rows: list[dict[str, Any]] = json.loads(arguments.json.read_text()) if written else []
    print("| model | how | logits that differ | s |\n| --- | --- | ---: | ---: |")
    for recipe in arguments.recipes.split(","):
        for family in [arguments.gguf.stem] if arguments.gguf else arguments.families.split(","):
            name = f"{family} {recipe}"
            if name in [row["model"] for row in rows]:
                continue
            frozen = (
                frozen_gguf(arguments.gguf, recipe)
                if arguments.gguf
                else frozen_model(family, recipe, arguments.layers)
            )
            rows.append(
                compare(
                    name, frozen, arguments.prompts, arguments.steps, arguments.alone or arguments.prompts
                )
            )
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))
    failed = any(any(row["differing"].values()) for row in rows)
    print("\nDIFFERENT" if failed else "\nall equal")
    sys.exit(failed)


if __name__ == "__main__":
    main()
