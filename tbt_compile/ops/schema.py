"""Declarations of `tbt::` operators: one annotated function each, plus a fake implementation.

The signature is the operator's schema. Each tensor is annotated with its dtypes and dimensions, and with a
role if passes, the binder or the importer treat it specially. The body is the eager reference:

    @declare
    def bit_linear(
        x: Annotated[Tensor, Operand("float32 [..., K]")],
        x_scale: Annotated[Tensor, Scale()],
        packed: Annotated[Tensor, PackedWeight(encoding="weight_encoding", columns="columns")],
        ...
    ) -> Tensor:
        ...

    @bit_linear.fake
    def _(call: SimpleNamespace) -> Tensor:
        return call.x.new_empty((*call.x.shape[:-1], call.packed.shape[0]))
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from tbt_compile.ops.operands import operands

_FORM = re.compile(r"(\w+) \[(.*)\]")
_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass(frozen=True)
class Operand:
    """A tensor operand of an operator; subclasses are the roles that an operand can have.

    Attributes:
        forms: dtype and dimensions, "float32 [..., K]", or alternatives: "int64 [N, W] | int8 [N, K]". The
            dtype `float` is any floating type, `...` any number of leading dimensions.

    >>> Operand("float32 [..., K]").accepts(torch.zeros(2, 3))
    True
    >>> Operand("float32 [..., K]").accepts(torch.zeros(()))
    False
    """

    forms: str

    def accepts(self, tensor: Tensor) -> bool:
        """Whether the tensor has the dtype and rank of one of the forms."""
        return any(
            tensor.dtype in dtypes and (tensor.dim() >= rank if open_rank else tensor.dim() == rank)
            for dtypes, rank, open_rank in self._parsed
        )

    @functools.cached_property
    def _parsed(self) -> list[tuple[frozenset[torch.dtype], int, bool]]:
        """Per form: dtypes, number of named dimensions, and whether other dimensions may precede them."""
        parsed = []
        for form in self.forms.split(" | "):
            found = _FORM.fullmatch(form)
            assert found, f"{form!r} is not a dtype with dimensions"
            dtype, dims = found[1], found[2].split(", ") if found[2] else []
            dtypes = _FLOATS if dtype == "float" else frozenset({getattr(torch, dtype)})
            parsed.append((dtypes, len(dims) - ("..." in dims), "..." in dims))
        return parsed


@dataclass(frozen=True)
class Scale(Operand):
    """Scales of quantized codes, learned or constant at export. Kernels take them as a vector."""

    forms: str = "float32 []"


@dataclass(frozen=True, kw_only=True)
class PackedWeight(Operand):
    """Packed codes of a weight, as a frozen model stores them; each instruction set reorders them.

    Attributes:
        encoding: name of the operand that holds the encoding of the codes.
        columns: name of the operand that holds the number of codes per row.
    """

    encoding: str
    columns: str
    forms: str = "int64 [N, planes, words] | int8 [N, K] | int16 [N, K]"


@dataclass(frozen=True)
class Heads(Operand):
    """Float queries, keys or values per head: `[B, H, T, D]`, or `[B, T, H, D]` with `heads_last`."""

    forms: str = "float32 [B, H, T, D]"


@dataclass(frozen=True)
class Past(Operand):
    """A packed cache that the operator appends to; the kernel appends in place."""


RoleT = TypeVar("RoleT", bound=Operand)


class Operator:
    """A declared operator, registered as `torch.ops.tbt.<name>`; calling it calls that.

    Attributes:
        name: without the namespace.
        target: the overload that graph nodes call.
        operands: its tensor operands by name, in schema order.
    """

    def __init__(self, reference: Callable[..., Any]) -> None:
        functools.update_wrapper(self, reference)
        signature, types = inspect.signature(reference), typing.get_type_hints(reference)
        self.name, self._reference = reference.__name__, reference
        self.operands = {
            name: hint.__metadata__[0]
            for name, hint in typing.get_type_hints(reference, include_extras=True).items()
            if typing.get_origin(hint) is typing.Annotated
        }
        self._names = tuple(signature.parameters)
        self._defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }

        def checked(*args: Any, **kwargs: Any) -> Any:
            return reference(**self._bind(args, kwargs))

        plain = [signature.parameters[name].replace(annotation=types[name]) for name in self._names]
        checked.__signature__ = inspect.Signature(plain, return_annotation=types["return"])  # type: ignore[attr-defined]
        self._definition = torch.library.custom_op(f"tbt::{self.name}", checked, mutates_args=())
        self.target = getattr(torch.ops.tbt, self.name).default

    def fake(self, result: Callable[[SimpleNamespace], Any]) -> Callable[[SimpleNamespace], Any]:
        """Decorate the fake implementation, which makes an empty result from the operands by name."""

        def checked(*args: Any, **kwargs: Any) -> Any:
            return result(SimpleNamespace(**self._bind(args, kwargs)))

        self._definition.register_fake(checked)
        return result

    def having(self, role: type[RoleT]) -> dict[str, RoleT]:
        """Return the operands with the given role, by name."""
        return {name: operand for name, operand in self.operands.items() if isinstance(operand, role)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._definition(*args, **kwargs)

    def body(self, *args: Any, **kwargs: Any) -> Any:
        """Call the reference itself, whose operators dispatch modes see."""
        return self._reference(**self._bind(args, kwargs))

    def __repr__(self) -> str:
        return f"tbt::{self.name}"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the operands of a call by name, defaults filled in and tensors checked.

        Raises:
            TypeError: a tensor has a dtype or rank that its operand does not allow.
        """
        given = {**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs}
        for name, operand in self.operands.items():
            value = given[name]
            if value is not None and not operand.accepts(value):
                dtype = str(value.dtype).removeprefix("torch.")
                raise TypeError(
                    f"{self}: operand {name} is {dtype} {list(value.shape)}, expected {operand.forms}"
                )
        return given


_DECLARED: dict[Any, Operator] = {}


def declare(reference: Callable[..., Any]) -> Operator:
    """Decorate the eager reference of an operator; registers it under the function's name.

    Raises:
        ValueError: an operator of that name is declared already.
    """
    if any(known.name == reference.__name__ for known in _DECLARED.values()):
        raise ValueError(f"tbt::{reference.__name__} is declared already")
    declared = Operator(reference)
    _DECLARED[declared.target] = declared
    return declared


def declared_operators() -> list[Operator]:
    """Return every `tbt::` operator."""
    return list(_DECLARED.values())


def operator_of(node: fx.Node) -> Operator | None:
    """Return the declaration of the operator that a node calls, or None if it calls no `tbt::` operator."""
    return declaration(node.target)


def declaration(target: Any) -> Operator | None:
    """Return the declaration of an overload; None if it is of no `tbt::` operator."""
    return _DECLARED.get(target)


def declared_uses(node: fx.Node) -> Iterator[tuple[fx.Node, Operand]]:
    """Yield the `tbt::` calls that use `node`, each with the declaration of the operand it is used as."""
    for user in node.users:
        declared = operator_of(user)
        if declared is not None:
            given = vars(operands(user))
            yield from ((user, operand) for name, operand in declared.operands.items() if given[name] is node)
