"""One architecture of the zoo, in a process of its own: prepare, run, lower, compare tokens.

    python examples/architectures/zoo_case.py causal llama --recipe 2-2-8

Prints one line of JSON: "outcome" is equal, refused, wrong, crash, or untried if no small model can be made
of its config; "reason" says why it is not equal.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from zoo_models import FEATURES, family, tiny_model
from zoo_sizes import PAD, VOCABULARY, WINDOW

import tbt_compile
from tbt_compile.adapters import adapter_for
from tbt_compile.adapters.example_inputs import example_inputs
from tbt_compile.adapters.sources import feature_name
from tbt_compile.codegen.importer.decompose import decompose
from tbt_compile.errors import TbtError

NEW_TOKENS = 12
SEARCHES = {"greedy": 1, "3 beams": 3}
LENGTHS = (WINDOW - 3, WINDOW + 4, WINDOW, WINDOW + 4)
"""Of the prompts or sources of a batch, some within and some past every window."""


def batch(model: Any) -> dict[str, torch.Tensor]:
    """Token ids and mask, int64 `[4, 12]`, padded where the model expects it, or features of four rows."""
    generator = torch.Generator().manual_seed(2)
    if model.config.is_encoder_decoder and (name := feature_name(model)) is not None:
        shape = FEATURES.get(model.config.model_type) or example_inputs(model)[name].shape[1:]
        features = torch.randn(len(LENGTHS), *shape, generator=generator)
        if name == "flattened_patches":  # of a row of patches; their first values tell the row and the column
            features[..., :2] = torch.stack([torch.zeros(shape[0]), torch.arange(shape[0])], -1)
        return {name: features}
    width = max(LENGTHS)
    ids = torch.randint(3, VOCABULARY, (len(LENGTHS), width), generator=generator)
    places = torch.arange(width)
    lengths = torch.tensor(LENGTHS)[:, None]
    mask = places < lengths if model.config.is_encoder_decoder else places >= width - lengths
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}


def training_inputs(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a forward call takes besides a batch: tokens of the decoder, and that no token is of an image."""
    if model.config.is_encoder_decoder:
        return {"decoder_input_ids": torch.arange(20).view(4, 5) + 3}
    of_images = "mm_token_type_ids" in inspect.signature(model.forward).parameters
    return {"mm_token_type_ids": torch.zeros_like(inputs["input_ids"])} if of_images else {}


def differences(frozen: Any, compiled: Any, inputs: dict[str, torch.Tensor]) -> Iterator[str]:
    """Run every search on the frozen model in PyTorch and on the compiled one; say where tokens differ."""
    for name, beams in SEARCHES.items():
        settings = {"num_beams": beams, "max_new_tokens": NEW_TOKENS}
        expected = frozen.generate(**inputs, **settings, do_sample=False).numpy()
        found = compiled.generate(**{key: value.numpy() for key, value in inputs.items()}, **settings)
        if expected.shape != found.shape:
            yield f"{name}: {list(found.shape)} tokens, expected {list(expected.shape)}"
        elif not np.array_equal(found, expected):
            row, column = np.argwhere(found != expected)[0]
            yield (
                f"{name}: {(found != expected).any(axis=1).sum()} of {len(found)} rows differ, row {row} "
                f"from token {column}: {found[row, column]}, expected {expected[row, column]}"
            )


def capture(frozen: Any) -> None:
    """Export the units of a frozen model and decompose them, as `lower` does before it compiles."""
    for unit in adapter_for(frozen.module).export_units(frozen.module).contexts:
        decompose(unit)


def run(kind: str, model_type: str, recipe: str, stage: str) -> dict[str, Any]:
    """Take one architecture through every stage.

    Args:
        kind: a key of `zoo_models.KINDS`.
        model_type: of the architecture.
        recipe: E-W-A notation.
        stage: the last one: "model", "capture" or "lower".

    Returns:
        The outcome, JSON-ready.
    """
    try:
        model = tiny_model(kind, model_type)
    except Exception as error:  # whatever a config says of its sizes
        reason = f"no small model is made of its config ({type(error).__name__}: {str(error).strip()[:200]})"
        return {"outcome": "untried", "reason": reason, "family": ""}
    result: dict[str, Any] = {"class": type(model).__name__, "family": family(model)}
    if stage == "model":
        return {**result, "outcome": "made"}
    start = time.perf_counter()
    try:
        adapter = adapter_for(model)
        adapter.check(model)
        adapter.check_lowering(model)  # what inputs do not change
        inputs = batch(model)
        more = training_inputs(model, inputs)
        given = (
            {**inputs, **more} if model.config.model_type in FEATURES and "input_ids" not in inputs else None
        )
        prepared = tbt_compile.prepare(model, recipe, given)
        result["prepare_s"] = round(time.perf_counter() - start, 1)
        with torch.no_grad():
            prepared.train()(**inputs, **more)
        frozen = tbt_compile.freeze(prepared.eval())
        if stage == "capture":
            capture(frozen)
            return {**result, "outcome": "captured"}
        start = time.perf_counter()
        compiled = tbt_compile.lower(frozen)
        result["lower_s"] = round(time.perf_counter() - start, 1)
    except TbtError as error:
        return {**result, "outcome": "refused", "reason": str(error)}
    try:
        found = list(differences(frozen, compiled, inputs))
    except TbtError as error:
        return {**result, "outcome": "refused", "reason": str(error)}
    return {**result, "outcome": "wrong" if found else "equal", "reason": "; ".join(found)}


def outcome(kind: str, model_type: str, recipe: str, stage: str) -> dict[str, Any]:
    """As `run`; any exception that is no refusal is a crash."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    try:
        return run(kind, model_type, recipe, stage)
    except Exception as error:
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename.split('site-packages/')[-1]}:{last.lineno}"
        return {"outcome": "crash", "reason": f"{type(error).__name__}: {str(error).strip()[:400]} ({place})"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind")
    parser.add_argument("model_type")
    parser.add_argument("--recipe", default="2-2-8", help="E-W-A notation")
    parser.add_argument("--stage", default="lower", help="the last one: model, capture or lower")
    arguments = parser.parse_args()
    result = outcome(arguments.kind, arguments.model_type, arguments.recipe, arguments.stage)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
