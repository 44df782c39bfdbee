"""Run a compiled model and the model it was made from on the same inputs, and compare what they return."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.errors import CaptureError
from tbt_compile.freezing import FrozenModel
from tbt_compile.modules import evaluation_mode
from tbt_compile.passes.prepare.capture import split_example_inputs

NEW_TOKENS = 8
_NOT_OF_GENERATE = ("decoder_input_ids", "attention_mask")

Tokens = npt.NDArray[np.int64]


def run_generator(
    model: Any, frozen: FrozenModel, compiled: Any, inputs: Any, settings: dict[str, Any]
) -> tuple[int, int]:
    """Generate with both models.

    Args:
        model: that writes the expected tokens: frozen, or prepared.
        frozen: the same, frozen.
        compiled: the compiled model.
        inputs: of `generate` by name; None for example inputs.
        settings: of `generate`.

    Returns:
        The number of new tokens, and of those that are equal.

    Raises:
        CaptureError: `inputs` is no dict of arrays.
    """
    if inputs is not None and not isinstance(inputs, dict):
        raise CaptureError(
            f"inputs is a {type(inputs).__name__}: expected a dict, such as {{'input_ids': ids}}"
        )
    given = {name: torch.as_tensor(value) for name, value in (inputs or _examples(frozen.module)).items()}
    chosen = {"max_new_tokens": NEW_TOKENS, **settings}
    tokens = compiled.generate(**{name: value.numpy() for name, value in given.items()}, **chosen)
    expected = _eager_tokens(model, given, {**chosen, **_restriction(compiled), "do_sample": False})
    if not compiled.is_encoder_decoder:
        start = given["input_ids"].shape[1]
    else:
        start = 1 if tokens.shape[1] and expected.shape[1] else 0
    return agreement(tokens[:, start:], expected[:, start:])


def run_module(
    model: Any, frozen: FrozenModel, compiled: Any, inputs: Any, settings: dict[str, Any]
) -> tuple[int, int]:
    """Call both models; the expected results have the floats of the frozen one.

    Args:
        model: unused.
        frozen: the frozen model.
        compiled: the compiled module.
        inputs: as `example_inputs` of `prepare`; None for the recorded ones, with random values.
        settings: none.

    Returns:
        The number of elements of all results, and of those that are equal.

    Raises:
        CaptureError: there are settings, or the inputs do not fit the forward.
    """
    del model
    if settings:
        raise CaptureError(
            f"{compiled.description['class']} does not generate: leave out {', '.join(settings)}"
        )
    if inputs is None:
        named = {
            name: _filled(value)
            for name, value in adapter_for(frozen.module).example_call(frozen.module).items()
        }
    else:
        named = call_record.named_arguments(frozen.module, *split_example_inputs(frozen.module, inputs))
    args, kwargs = call_record.as_call(named, frozen.module)
    expected = frozen(*args, **kwargs)
    taken = {each["name"] for each in compiled.description["inputs"]}
    found = compiled(**{name: value for name, value in named.items() if name in taken})
    pairs = list(zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True))
    results = [(np.asarray(one), other.numpy()) for one, other in pairs if isinstance(other, Tensor)]
    return sum(one.size for one, _ in results), sum(int((one == other).sum()) for one, other in results)


def agreement(tokens: Tokens, expected: Tokens) -> tuple[int, int]:
    """The number of tokens of the longer of two results [B, T], and of those that are equal.

    >>> agreement(np.array([[5, 6, 2]]), np.array([[5, 7]]))
    (3, 1)
    """
    shared = min(tokens.shape[1], expected.shape[1])
    equal = int((tokens[:, :shared] == expected[:, :shared]).sum())
    return max(tokens.size, expected.size), equal


def _restriction(compiled: Any) -> dict[str, Any]:
    """What makes the eager model write the tokens of a compiled model's shortlist alone, as `lower` says."""
    if compiled.shortlist is None:
        return {}
    every = np.arange(compiled.description["vocabulary"])
    return {
        "suppress_tokens": np.setdiff1d(every, compiled.shortlist).tolist(),
        "renormalize_logits": True,
    }


def _examples(module: nn.Module) -> dict[str, Tensor]:
    """Example inputs of a model that generates: without padding, and those of the source alone."""
    found = adapter_for(module).example_call(module)
    return {name: value for name, value in found.items() if name not in _NOT_OF_GENERATE}


def _filled(value: Any) -> Any:
    """Random numbers in the place of the zeros of a recorded float tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value.dtype)


def _eager_tokens(model: Any, given: dict[str, Tensor], settings: dict[str, Any]) -> Tokens:
    """What a model writes in PyTorch, int64 [B, T]; its mode does not change."""
    if isinstance(model, FrozenModel):
        return np.asarray(model.generate(**given, **settings).numpy())
    module: Any = unwrapped(model)
    modes = {each: each.training for each in module.modules()}
    evaluation_mode(module)
    try:
        with torch.no_grad():
            return np.asarray(module.generate(**given, **settings).cpu().numpy())
    finally:
        for each, mode in modes.items():
            each.training = mode
