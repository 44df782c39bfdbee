"""Float operators of PyTorch with the bits of compiled code.

Sums of floats and elementary functions differ from one engine to the next, and in PyTorch from one batch
size to the next, in the last bit. Inside `exact()` they run the compiler's kernels, which docs/numerics.md
defines: what a frozen model computes in eager mode is then what its compiled form computes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tbt_compile.encoding import Encoding
from tbt_compile.ops import host_kernels
from tbt_compile.ops.convolutions import convolved
from tbt_compile.ops.definitions import DEFINITIONS, EAGER
from tbt_compile.ops.quantize import quantize_with
from tbt_compile.ops.schema import declaration

ATEN = torch.ops.aten
_RULES: dict[Any, Callable[..., Any]] = {}


def exact() -> AbstractContextManager[Any]:
    """Compute float32 operators on the CPU as compiled code does. Gradients are not computed inside.

    Operators without a rule here add, multiply and compare single floats, which IEEE 754 defines, or call the
    C library (docs/numerics.md lists them). Tensors on another device, or of another dtype, are left to
    PyTorch.
    """
    return _Exact()


class _Exact(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        rule = _RULES.get(func) or _fused(func)
        if rule is None:
            if _is_composite(func):  # PyTorch has not decomposed it, in inference mode and in rules
                with self:
                    return func.decompose(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))
        operands = [value for value in args if isinstance(value, Tensor) and value.is_floating_point()]
        is_empty = any(value.numel() == 0 for value in operands)
        if not operands or is_empty or not all(map(_is_host_float, operands)):
            return func(*args, **(kwargs or {}))
        return rule(*args, **(kwargs or {}))


@cache
def _is_composite(operator: Any) -> bool:
    return bool(operator._can_decompose())


@cache
def _fused(func: Any) -> Callable[..., Any] | None:
    """The rule of a `tbt::` operator, which is made of operators that have rules; None for any other."""
    operator = declaration(func)
    return None if operator is None else partial(_defined, func, operator.body)


def _is_host_float(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


def _rule(*targets: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _RULES.update(dict.fromkeys(targets, function))
        return function

    return register


def _function(name: str, x: Tensor) -> Tensor:
    from tbt_compile.codegen.kernels.float_ops.activations import ActivationSpec, activation

    spec = ActivationSpec(name, 1, host_kernels.isa())
    return host_kernels.run(activation, spec, [x.reshape(-1, 1)], [x.numel(), 1]).reshape(x.shape)


for _name in ("exp", "erf", "tanh", "sigmoid", "log", "sin", "cos", "silu"):
    _RULES[getattr(ATEN, _name).default] = partial(_function, _name)


@_rule(torch.ops.tbt.quantize.default)
def _quantize(
    x: Tensor, scale: Tensor, encoding: str, center: bool, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    def mean(wide: Tensor) -> Tensor:
        return _reduced("row_mean", wide.reshape(-1, wide.shape[-1])).reshape(*wide.shape[:-1], 1)

    return quantize_with(mean, x, scale, Encoding(encoding), center, floor)


@_rule(ATEN.gelu.default)
def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return _function("gelu_tanh" if approximate == "tanh" else "gelu", x)


@_rule(ATEN.sqrt.default)
def _sqrt(x: Tensor) -> Tensor:
    # PyTorch's may be MKL's, which is not rounded as IEEE 754 has it.
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.asarray(np.sqrt(x.detach().contiguous().numpy())))


@_rule(ATEN.pow.Tensor_Scalar)
def _pow(x: Tensor, exponent: float) -> Tensor:
    return _sqrt(x) if exponent == 0.5 else x.pow(exponent)


@_rule(ATEN.native_layer_norm.default)
def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from tbt_compile.codegen.kernels.float_ops.norms import NormSpec, layer_norm

    size = prod(shape)
    weight = torch.ones(size) if weight is None else weight.reshape(size)
    bias = torch.zeros(size) if bias is None else bias.reshape(size)
    spec = NormSpec(size, float(eps), host_kernels.isa())
    rows = x.reshape(-1, size)
    y = host_kernels.run(layer_norm, spec, [rows, weight, bias], rows.shape).reshape(x.shape)
    return y, x.new_empty(0), x.new_empty(0)  # the statistics are for gradients only


@_rule(ATEN._softmax.default)
def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    from tbt_compile.codegen.kernels.float_ops.softmax import SoftmaxSpec, softmax

    del half_to_float
    if x.dim() == 0:
        return _softmax(x.reshape(1), 0).reshape(())
    rows = x.movedim(dim, -1)
    shape = (1, 1, rows.numel() // max(1, rows.shape[-1]), rows.shape[-1])
    spec = SoftmaxSpec(host_kernels.isa())
    y = host_kernels.run(softmax, spec, [rows.reshape(shape)], shape)
    return y.reshape(rows.shape).movedim(-1, dim)


@_rule(ATEN._log_softmax.default)
def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    from tbt_compile.codegen.kernels.float_ops.vocabulary import log_softmax_rows

    del half_to_float
    if x.dim() == 0:
        return _log_softmax(x.reshape(1), 0).reshape(())
    moved = x.movedim(dim, -1)
    rows = moved.reshape(-1, moved.shape[-1])
    y = host_kernels.run(log_softmax_rows, host_kernels.any_size(), [rows], rows.shape)
    return y.reshape(moved.shape).movedim(-1, dim)


@_rule(ATEN.sum.default, ATEN.sum.dim_IntList)
def _sum(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if dtype not in (None, torch.float32):
        return torch.sum(x.to(dtype), tuple(dim or range(x.dim())), keepdim)
    if x.dim() == 0:
        return x.clone()
    summed = sorted({each % max(1, x.dim()) for each in dim or range(x.dim())})
    kept = [each for each in range(x.dim()) if each not in summed]
    rows = x.permute([*kept, *summed]).reshape(prod(x.shape[each] for each in kept), -1)
    shape = [1 if each in summed else size for each, size in enumerate(x.shape)]
    return _reduced("row_sum", rows).reshape(shape if keepdim else [x.shape[each] for each in kept])


@_rule(ATEN.mean.default, ATEN.mean.dim)
def _mean(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return _sum(x, dim, keepdim, dtype=dtype) / _count(x, dim)


@_rule(ATEN.var.correction)
def _var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    deviation = x - _mean(x, dim, True)
    freedom = max(0, _count(x, dim) - (1 if correction is None else correction))
    return _sum(deviation * deviation, dim, keepdim) / freedom


@_rule(ATEN.var_mean.correction)
def _var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    return _var(x, dim, correction=correction, keepdim=keepdim), _mean(x, dim, keepdim)


@_rule(ATEN.std_mean.correction)
def _std_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    return _std(x, dim, correction=correction, keepdim=keepdim), _mean(x, dim, keepdim)


@_rule(ATEN.std.correction)
def _std(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _sqrt(_var(x, dim, correction=correction, keepdim=keepdim))


@_rule(ATEN.topk.default)
def _topk(
    x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    # The first of equals, in order; PyTorch takes any.
    del sorted
    values, indices = torch.sort(x, dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


@_rule(ATEN.bmm.default)
def _bmm(x: Tensor, y: Tensor) -> Tensor:
    from tbt_compile.codegen.kernels.linear.float32 import matmul_float

    if len(x) > 1 and y.stride(0) == 0:  # matmul of a batch that is not contiguous with one matrix
        return _mm(x.reshape(-1, x.shape[2]), y[0]).reshape(x.shape[0], x.shape[1], y.shape[2])
    shape = (x.shape[0], x.shape[1], y.shape[2])
    return host_kernels.run(matmul_float, host_kernels.any_size(), [x, y], shape)


@_rule(ATEN.mm.default)
def _mm(x: Tensor, y: Tensor) -> Tensor:
    from tbt_compile.codegen.kernels.linear.float32 import dot_float

    return host_kernels.run(dot_float, host_kernels.any_size(), [x, y.t()], (len(x), y.shape[1]))


@_rule(ATEN.addmm.default)
def _addmm(added: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _added(added, _mm(x, y), beta, alpha)


@_rule(ATEN.baddbmm.default)
def _baddbmm(added: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _added(added, _bmm(x, y), beta, alpha)


@_rule(ATEN.convolution.default)
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    if transposed or weight.dim() > 4:
        return ATEN.convolution.default(
            x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
    with exact():
        return convolved(x, weight, bias, stride, padding, dilation, groups)


@_rule(ATEN.add.Tensor)
def _add(x: Tensor, y: Any, *, alpha: float = 1) -> Tensor:
    # PyTorch contracts alpha * y + x.
    return torch.add(x, y if alpha == 1 else y * alpha)


@_rule(ATEN.sub.Tensor)
def _sub(x: Tensor, y: Any, *, alpha: float = 1) -> Tensor:
    return torch.sub(x, y if alpha == 1 else y * alpha)


@_rule(ATEN.rsub.Tensor)
def _rsub(x: Tensor, y: Any, *, alpha: float = 1) -> Tensor:
    return torch.sub(y, x if alpha == 1 else x * alpha)


def _defined(target: Any, definition: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with exact():
        found = definition(*args, **kwargs)
    return target(*args, **kwargs) if found is NotImplemented else found


for _target, _definition in {**DEFINITIONS, **EAGER}.items():
    _RULES[_target] = partial(_defined, _target, _definition)


def _added(added: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    added = added if beta == 1 else added * beta
    return (product if alpha == 1 else product * alpha) + added


def _count(x: Tensor, dim: Sequence[int] | None) -> int:
    return prod(x.shape[each] for each in {each % max(1, x.dim()) for each in dim or range(x.dim())})


def _reduced(name: str, rows: Tensor) -> Tensor:
    from tbt_compile.codegen.kernels.float_ops import reductions

    build = getattr(reductions, name)
    return host_kernels.run(build, host_kernels.any_size(), [rows], [len(rows)])


def _written(rule: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x.copy_(rule(x, *args, **kwargs))


for _target, _found in list(_RULES.items()):
    _packet = getattr(ATEN, f"{_target.overloadpacket.__name__}_", None)
    if _packet is not None and _target._overloadname in _packet.overloads():
        _RULES.setdefault(getattr(_packet, _target._overloadname), partial(_written, _found))
_RULES[ATEN.pow_.Scalar] = partial(_written, _pow)  # named otherwise than the one that it is made of
