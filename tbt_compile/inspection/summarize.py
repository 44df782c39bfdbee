"""`summary` lists the layers of a model at any stage: bits, bytes and multiplications."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.extras import require_extra
from tbt_compile.inspection.layers import Layer, Summary

if TYPE_CHECKING:
    from torch import nn

    from tbt_compile.freezing import FrozenModel
    from tbt_compile.runtime.compiled_library import CompiledLibrary

SUMMARY = "summary"
"""Of the summary in the manifest of a compiled folder."""
TOKENS = 128


def summary(model: Any, inputs: Any = None, *, tokens: int = TOKENS) -> Summary:
    """List the layers of a model: bits of weights and activations, bytes before and after, multiplications.

    Multiplications are those of one call of the model, counted without computing anything. The bytes after
    are those in the file of tensors of a saved model: of a prepared model what it will take when it is
    frozen, of a compiled one in the layouts of its kernels. A model in full precision has them as in memory.

    Args:
        model: in full precision, prepared, frozen or compiled; for a compiled model no torch is needed. It is
            not changed.
        inputs: of the call, as `example_inputs` of `prepare`. The default is one row of `tokens` tokens for a
            transformers model of text, else the recorded example inputs. A compiled model keeps the counts of
            its compilation.
        tokens: of source and target, at most as many as the model has positions.

    Returns:
        The layers and totals. If nothing tells how the model is called, it has no counts and says why.

    Raises:
        CaptureError: the model cannot be called with `inputs`, or is a compiled one and has counts already.
        PlanError: a compiled model was written by a release that recorded no layers.
    """
    if hasattr(model, "description"):
        if inputs is not None:
            raise CaptureError(
                "a compiled model keeps the counts of its compilation: leave inputs out, or give the frozen "
                "model"
            )
        return _of_compiled(model)
    with require_extra():
        return _of_torch(model, inputs, tokens)


def recorded_layers(frozen: FrozenModel) -> dict[str, Any]:
    """The summary that a compiled model keeps, JSON-ready; its bytes are those in memory."""
    found = _summarized(frozen.module, "frozen", str(frozen.recipe), frozen.dtypes[0], None, TOKENS)
    return found.to_dict()


def _of_torch(model: Any, inputs: Any, tokens: int) -> Summary:
    """The summary of a model that PyTorch runs; arguments as for `summary`."""
    from tbt_compile.adapters.wrappers import unwrapped
    from tbt_compile.dtypes import checkpoint_dtypes
    from tbt_compile.freezing import FrozenModel, packed_copy
    from tbt_compile.modules import is_prepared
    from tbt_compile.preparation import opened

    if isinstance(model, FrozenModel):
        recipe, dtype = str(model.recipe), model.dtypes[0]
        return _summarized(model.module, "frozen", recipe, dtype, inputs, tokens)
    module, inputs = opened(model, inputs)
    module = unwrapped(module)
    dtype = checkpoint_dtypes(module)[0]
    if not is_prepared(module):
        return _summarized(module, "float", None, dtype, inputs, tokens)
    frozen = packed_copy(module)
    return _summarized(frozen.module, "prepared", str(frozen.recipe), dtype, inputs, tokens)


def _summarized(
    module: nn.Module,
    stage: str,
    recipe: str | None,
    dtype: str,
    inputs: Any,
    tokens: int,
) -> Summary:
    """Count and list.

    Args:
        module: in full precision or frozen.
        stage: of the model that it stands for.
        recipe: in E-W-A notation.
        dtype: of the checkpoint.
        inputs: as for `summary`.
        tokens: as for `summary`.
    """
    from tbt_compile.inspection.example_calls import call_of, described
    from tbt_compile.inspection.macs import count_macs
    from tbt_compile.inspection.torch_layers import layers_of

    shown, uncounted, macs = "", "", None
    try:
        call = call_of(module, inputs, tokens)
        shown, macs = described(module, call), count_macs(module, call)
    except CaptureError as error:
        if inputs is not None:
            raise
        uncounted = str(error)
    layers = tuple(layers_of(module, dtype, macs))
    name = type(module).__name__.removeprefix("Quantized")
    return Summary(name, stage, recipe, layers, shown, uncounted)


def _of_compiled(model: CompiledLibrary) -> Summary:
    """The recorded layers, with the bytes of the tensors that the libraries read."""
    recorded = model.description.get(SUMMARY)
    if recorded is None:
        raise PlanError(
            f"this {model.description['class']} was compiled by a release that recorded no layers: lower it "
            "again, or give the frozen model"
        )
    found = Summary.from_dict(recorded)
    sizes: dict[str, int] = {}
    names = sorted((layer.name for layer in found.layers), key=len, reverse=True)
    for tensor, size in model.stored_bytes().items():
        owner = next((name for name in names if tensor.startswith(f"{name}.")), "")
        sizes[owner] = sizes.get(owner, 0) + size
    layers = [replace(layer, bytes_after=sizes.pop(layer.name, 0)) for layer in found.layers]
    if sizes:  # tables that the compiler computed belong to no module
        layers.append(Layer("", "constants", bytes_after=sum(sizes.values())))
    if libraries := model.library_bytes():
        layers.append(Layer("(libraries)", ", ".join(libraries), bytes_after=sum(libraries.values())))
    return replace(found, stage="compiled", layers=tuple(layers))
