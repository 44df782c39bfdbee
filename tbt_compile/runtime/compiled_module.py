"""Compiled modules, called with arrays and returning arrays. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from tbt_compile.errors import GenerationError, InputError, did_you_mean
from tbt_compile.runtime import worker_threads
from tbt_compile.runtime.compiled_library import Array, CompiledLibrary
from tbt_compile.runtime.results import put_together
from tbt_compile.size_bounds import SizeBound, broken
from tbt_compile.storage import model_folder

_NO_BOUND = np.iinfo(np.int64).max


class CompiledModule(CompiledLibrary):
    """A plain module compiled to libraries, with its packed weights.

    Made by `tbt_compile.lower`, or loaded from a folder by `tbt_compile.load`. Attributes: see
    `CompiledLibrary`; `description["inputs"]` lists the arguments with dtypes and shapes, in which a name is
    a dynamic size.
    """

    KIND = model_folder.MODULE

    @cached_property
    def _bounds(self) -> list[SizeBound]:
        return [SizeBound(**bound) for bound in self.description["bounds"]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module.

        Args:
            args: array-likes, as the module's forward takes tensors; tensors of PyTorch too. Floats of any
                precision are accepted where the compiled module takes float32: bfloat16 and float16 are
                converted exactly, float64 is rounded. Arguments that were constants when the module was
                prepared are compiled in; leave them out.
            kwargs: more arguments, by name.

        Returns:
            What the module returns, with arrays in the place of tensors: one array, or arrays and constants
            in tuples (also NamedTuples), lists and dicts, which may be nested. Floats are float32, whatever
            the precision of the checkpoint. The arguments are never changed, not even by a forward that works
            in place.

        Raises:
            InputError: an argument is missing or unknown, or has the wrong dtype or shape.
            TargetError: the module was compiled for another machine.
        """
        arrays = self._bind(args, kwargs)
        from tbt_compile.runtime.bound_library import as_array, tensor

        values = worker_threads.run(
            lambda: self._with_threads().call("forward", *(tensor(array) for array in arrays))
        )
        results = [as_array(value).copy() for value in values]
        lookups = self.description["lookups"]
        for fault, found in zip(lookups, results.pop() if lookups else (), strict=True):
            if found:
                raise InputError(fault)
        return put_together(self.description["returns"], results)

    def generate(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Refuse to generate: a plain module does not generate text.

        Raises:
            GenerationError: always.
        """
        raise GenerationError(f"{self.description['class']} does not generate text: call it with its inputs")

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Array]:
        """Return the arguments as checked arrays in the order of the library's inputs."""
        name, inputs = self.description["class"], self.description["inputs"]
        shared = self.description.get("shared", {})
        names = [argument["name"] for argument in inputs]
        accepted = [*names, *shared]
        signature = f"{name}({', '.join(names)})"
        if len(args) > len(accepted):
            fixed = [f"{key!r} to {value!r}" for key, value in self.description["constants"].items()]
            told = f"; fixed when it was prepared: {', '.join(fixed)}" if fixed else ""
            raise InputError(f"{signature} got {len(args)} positional arguments{told}")
        given = dict(zip(accepted, args, strict=False))
        for key, value in kwargs.items():
            if key in self.description["constants"]:
                fixed = self.description["constants"][key]
                raise InputError(
                    f"{key!r} of {signature} was fixed to {fixed!r} when it was prepared: leave it out"
                )
            if key not in accepted:
                raise InputError(f"{signature} has no argument {key!r}.{did_you_mean(key, names)}")
            if key in given:
                raise InputError(f"{signature} got {key!r} twice")
            given[key] = value
        missing = [key for key in names if key not in given]
        if missing:
            raise InputError(f"{signature} is missing {' and '.join(map(repr, missing))}")
        for key, first in shared.items():
            if key in given and not np.array_equal(given[key], given[first]):
                raise InputError(
                    f"{key!r} of {signature} was the same tensor as {first!r} when it was prepared: leave it "
                    "out, or prepare the module with another"
                )
        sizes: dict[str, int] = {}
        least = {bound.size: bound.limit for bound in self._bounds if not bound.largest and bound.one_sided}
        arrays = [_checked(argument, given[argument["name"]], sizes, least) for argument in inputs]
        bound = broken(self._bounds, sizes)
        if bound is not None:
            argument = next(argument for argument in inputs if bound.size in argument["shape"])
            dim = argument["shape"].index(bound.size)
            raise InputError(
                f"dimension {dim} of {argument['name']} is {sizes[bound.size]}: {bound.demand()}"
            )
        return arrays


def _checked(argument: dict[str, Any], value: Any, sizes: dict[str, int], least: Mapping[str, int]) -> Array:
    """Check one argument and return it as an array.

    Args:
        argument: its description in the manifest.
        value: an array-like.
        sizes: the dynamic sizes of this call so far; those of the argument are added.
        least: lower bounds of dynamic sizes; without one a size is at least 1.

    Returns:
        The array, in the dtype that the library takes.

    Raises:
        InputError: the value does not fit.
    """
    name, dtype, shape = argument["name"], np.dtype(argument["dtype"]), argument["shape"]
    try:
        array = _as_array(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array ({error})") from error
    fits = array.ndim == len(shape) and all(
        size == (expected if isinstance(expected, int) else sizes.setdefault(expected, size))
        for size, expected in zip(array.shape, shape, strict=True)
    )
    if not fits or 0 in array.shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(_misfit(argument, array, sizes, least))
    for size, longest in zip(array.shape, argument.get("longest", ()), strict=False):
        if longest is not None and size > longest:
            raise InputError(
                f"{name} has a dimension of {size}: expected at most {longest}, as tables are long"
            )
    below = argument.get("below")
    if below is not None and not argument["least"] <= array.min() <= array.max() < below:
        raise InputError(f"{name} holds {array.min()} to {array.max()}: expected {_indices(argument)}")
    cast = array.astype(dtype)
    if array.dtype.kind in "iu" and array.dtype != dtype and not np.array_equal(cast, array):
        raise InputError(
            f"{name} holds {array.dtype} numbers that {dtype} cannot: prepare the module with {array.dtype}"
        )
    return cast


def _misfit(
    argument: dict[str, Any], array: Array, sizes: Mapping[str, int], least: Mapping[str, int]
) -> str:
    """Why an array of another dtype or shape, or an empty one, is refused; parameters as for `_checked`."""
    shape = argument["shape"]
    found = f"{argument['name']} is {array.dtype} of shape {list(array.shape)}"
    ranks = array.ndim == len(shape)
    if ranks and 0 in array.shape:
        dim = array.shape.index(0)
        if isinstance(shape[dim], str) and sizes.get(shape[dim]) == 0:
            return f"{found}: dimension {dim} ({shape[dim]}) is free, but at least {least.get(shape[dim], 1)}"
    known = ", ".join(str(sizes.get(size, size)) for size in shape)
    free = "; other sizes are free, but not 0" if any(isinstance(size, str) for size in shape) else ""
    told = f"{found}: expected {argument['dtype']} [{known}]. Numbers are set by the example inputs that the "
    told += f"module was prepared with{free}"
    if "fixed" in argument and ranks and array.shape[0] != shape[0]:
        told += f". The first dimension is fixed: {argument['fixed']}"
    return told


def _indices(argument: dict[str, Any]) -> str:
    """The indices that an argument may hold, in words; a bound may be that of its dtype."""
    least, most = argument["least"], argument["below"] - 1
    if most >= _NO_BOUND - 1:
        return f"indices of at least {least}"
    return f"indices of at most {most}" if least <= -_NO_BOUND else f"indices from {least} to {most}"


def _as_array(value: Any) -> Array:
    """An array of an argument, which may be a tensor of PyTorch: NumPy has no bfloat16."""
    if hasattr(value, "detach"):
        value = value.detach()
    return np.asarray(value.float() if str(getattr(value, "dtype", "")) == "torch.bfloat16" else value)
