"""Matrix products as PyTorch code spells them, brought to one form.

`F.linear`, `x @ w`, `torch.bmm`, `torch.addmm`, `torch.einsum`, `F.conv1d`, `F.conv2d` and their ATen
operators become a `Contraction`: two operands with the summed features last, and a function that gives the
result its place.
"""

from __future__ import annotations

import operator
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.ops.convolutions import geometry

aten = torch.ops.aten

SDPA, MULTIHEAD, EMBEDDING = "scaled_dot_product_attention", "multi_head_attention_forward", "embedding"
_SPELLINGS: dict[str, tuple[Any, ...]] = {
    "linear": (F.linear, aten.linear.default),
    "matmul": (
        operator.matmul,
        torch.matmul,
        torch.bmm,
        torch.mm,
        Tensor.matmul,
        Tensor.bmm,
        Tensor.mm,
        Tensor.__matmul__,
        aten.matmul.default,
        aten.bmm.default,
        aten.mm.default,
    ),
    "rmatmul": (Tensor.__rmatmul__,),
    "addmm": (torch.addmm, Tensor.addmm, aten.addmm.default),
    "baddbmm": (torch.baddbmm, Tensor.baddbmm, aten.baddbmm.default),
    "einsum": (torch.einsum, aten.einsum.default),
    "conv1d": (F.conv1d, aten.conv1d.default, aten.conv1d.padding),
    "conv2d": (F.conv2d, aten.conv2d.default, aten.conv2d.padding),
    "convolution": (torch.convolution, aten.convolution.default),
    EMBEDDING: (F.embedding,),
    "embedding_lookup": (torch.embedding, aten.embedding.default),
    SDPA: (F.scaled_dot_product_attention, aten.scaled_dot_product_attention.default),
    MULTIHEAD: (F.multi_head_attention_forward,),
}
_NAMES = {function: name for name, functions in _SPELLINGS.items() for function in functions}
_METHODS = {"matmul", "bmm", "mm", "addmm", "baddbmm", "__matmul__", "__rmatmul__"}
_CONVOLUTION = (("input",), ("weight",), ("bias",), ("stride",), ("padding",), ("dilation",))
# The operands of each function in order, with the names that callers may pass them by.
_OPERANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "linear": (("input",), ("weight",), ("bias",)),
    "matmul": (("self", "input"), ("other", "mat2", "tensor2")),
    "rmatmul": (("self",), ("other",)),
    "addmm": (("self", "input"), ("mat1",), ("mat2",)),
    "baddbmm": (("self", "input"), ("batch1",), ("batch2",)),
    "conv1d": (*_CONVOLUTION, ("groups",)),
    "conv2d": (*_CONVOLUTION, ("groups",)),
    "convolution": (*_CONVOLUTION, ("transposed",), ("output_padding",), ("groups",)),
    EMBEDDING: (("input",), ("weight",), ("padding_idx",)),
    "embedding_lookup": (("weight",), ("input", "indices"), ("padding_idx",)),
}
FACTORS = {"linear": (0, 1), "matmul": (0, 1), "rmatmul": (1, 0), "addmm": (1, 2), "baddbmm": (1, 2)}
"""The places of both factors among the operands."""
CONVOLUTIONS = ("conv1d", "conv2d", "convolution")
FACTORS |= dict.fromkeys(CONVOLUTIONS, (0, 1))


def product_name(function: Any) -> str | None:
    """The one name of a product function, method or ATen operator; None for any other function.

    >>> product_name(torch.bmm), product_name(torch.add)
    ('matmul', None)
    """
    try:
        return _NAMES.get(function)
    except TypeError:  # not hashable
        return None


def method_name(method: str) -> str | None:
    """The name of a product that a graph calls as a method of its first operand."""
    return product_name(getattr(Tensor, method)) if method in _METHODS else None


@dataclass(frozen=True)
class Contraction:
    """`finish(left @ right.T)`.

    Attributes:
        left: `[*batch, M, K]`; without batch dimensions of `right`, `[..., K]`.
        right: `[*batch, N, K]`.
        finish: brings the product `[*batch, M, N]` to the result of the call.
    """

    left: Tensor
    right: Tensor
    finish: Callable[[Tensor], Tensor]

    def swapped(self) -> Contraction:
        """The same with the operands in the other order."""
        finish = self.finish
        return Contraction(self.right, self.left, lambda y: finish(y.transpose(-1, -2).contiguous()))


def operands_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operands of a call in order, however they were passed.

    Args:
        name: from `product_name`.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        The operands; None for those left out.
    """
    if name == "einsum":
        first, *rest = args[1:] or (kwargs.get("operands"),)
        return list(first) if isinstance(first, (list, tuple)) else [first, *rest]
    found = list(args[: len(_OPERANDS[name])])
    for names in _OPERANDS[name][len(found) :]:
        found.append(next((kwargs[each] for each in names if each in kwargs), None))
    return found


def contraction(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Contraction | None:
    """Bring a call of a product to its one form.

    Args:
        name: from `product_name`, other than an embedding or attention.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        The contraction; None for a call without such a form: an einsum that sums over a single operand, takes
        a diagonal, or has other than two operands, or a convolution in groups.
    """
    operands = operands_of(name, args, kwargs)
    if name == "einsum":
        equation = args[0] if args else kwargs["equation"]
        return _einsum(equation, *operands) if isinstance(equation, str) and len(operands) == 2 else None
    if name in CONVOLUTIONS:
        return _convolution(name, operands)
    first, second = (operands[place] for place in FACTORS[name])
    if name == "linear":
        bias = operands[2]
        return Contraction(first, second, lambda y: _plus(y, bias))
    found = _matmul(first, second)
    if name in ("matmul", "rmatmul"):
        return found
    added, beta, alpha = operands[0], kwargs.get("beta", 1), kwargs.get("alpha", 1)
    return Contraction(found.left, found.right, lambda y: torch.add(_times(added, beta), _times(y, alpha)))


def _times(x: Tensor, factor: Any) -> Tensor:
    return x if factor == 1 else x * factor


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _convolution(name: str, operands: Sequence[Any]) -> Contraction | None:
    found = geometry(name, operands)
    if isinstance(found, str):
        return None
    x, weight, bias = operands[:3]
    return Contraction(found.windows(x), weight.flatten(1), lambda y: found.image(_plus(y, bias)))


def _matmul(a: Tensor, b: Tensor) -> Contraction:
    vector_left, vector_right = a.dim() == 1, b.dim() == 1
    left = a.unsqueeze(0) if vector_left else a
    right = b.unsqueeze(0) if vector_right else b.transpose(-1, -2)

    def finish(y: Tensor) -> Tensor:
        y = y.squeeze(-1) if vector_right else y
        return y.squeeze(-1 if vector_right else -2) if vector_left else y

    return Contraction(left, right, finish)


def _einsum(equation: str, a: Tensor, b: Tensor) -> Contraction | None:
    terms = _terms(equation, a.dim(), b.dim())
    if terms is None:
        return None
    left, right, out = terms
    batch = [x for x in left if x in right and x in out]
    summed = [x for x in left if x in right and x not in out]
    rows, columns = ([x for x in term if x not in batch + summed] for term in (left, right))
    sizes = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}
    same = all(a.shape[left.index(x)] == b.shape[right.index(x)] for x in batch + summed)
    if not summed or not same or set(rows + columns) - set(out):
        return None

    def grouped(x: Tensor, term: str, free: list[str]) -> Tensor:
        shape = [*(sizes[each] for each in batch), *(prod(sizes[x] for x in part) for part in (free, summed))]
        return x.permute([term.index(each) for each in (*batch, *free, *summed)]).reshape(shape)

    order = [*batch, *rows, *columns]

    def finish(y: Tensor) -> Tensor:
        return y.reshape([sizes[each] for each in order]).permute([order.index(each) for each in out])

    return Contraction(grouped(a, left, rows), grouped(b, right, columns), finish)


def _terms(equation: str, *dims: int) -> tuple[str, str, str] | None:
    """The letters of both operands and the result, an ellipsis spelled out; None if one repeats."""
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    terms, ellipsis = [], ""
    for term, rank in zip(inputs.split(","), dims, strict=True):
        missing = rank - len(term.replace("...", ""))
        letters = "".join(unused[:missing][::-1])  # aligned at the last dimension
        ellipsis = max(ellipsis, letters, key=len) if "..." in term else ellipsis
        terms.append(term.replace("...", letters))
    if not arrow:
        joined = "".join(terms)
        out = ellipsis + "".join(sorted(x for x in set(joined) - set(ellipsis) if joined.count(x) == 1))
    out = out.replace("...", ellipsis)
    if any(len(set(term)) != len(term) for term in (*terms, out)):
        return None
    return terms[0], terms[1], out
