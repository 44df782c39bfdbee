"""From operators of the lowered graph to calls of kernels in Relax.

Each converter takes an FX node and the importer, finds the operands' shapes, makes the kernel for them (one
per distinct spec) and emits a call with the kernel's outputs allocated by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import reduce
from operator import mul
from typing import Any, cast

from torch import fx

from tbt_compile.codegen.kernels.attention import attention, pack_cache
from tbt_compile.codegen.kernels.attention.pack_cache import PackSpec
from tbt_compile.codegen.kernels.attention.spec import AttentionSpec
from tbt_compile.codegen.kernels.linear import embedding, linear
from tbt_compile.codegen.layouts import SCALE_BYTES, Layout, words_for
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, relax
from tbt_compile.encoding import Encoding

Converter = Callable[[fx.Node, Any], Expr]


@dataclass
class Kernels:
    """Makes kernels on demand, for one instruction set, and remembers what was made.

    Attributes:
        isa: what the schedules are for.
        made: the kernels by the name under which the compiled library holds them; for reports.
    """

    isa: Isa
    made: dict[str, PrimFunc] = field(default_factory=dict)

    def call(
        self,
        importer: Any,
        spec: Any,
        build: Callable[[Any], PrimFunc],
        args: Sequence[Expr],
        shape: Sequence[Any],
        dtype: str = "float32",
    ) -> Expr:
        """Emit a call of `build(spec)` that returns one tensor."""
        name = kernel_name(build.__name__, spec)
        if name not in self.made:
            self.made[name] = build(spec)
        function = importer.block_builder.add_func(self.made[name], name)
        return importer.block_builder.emit(
            relax.call_tir(function, list(args), relax.TensorType(list(shape), dtype))
        )

    def converters(self) -> dict[str, Converter]:
        """The converters by operator name, as the importer looks them up."""
        return {
            "bit_linear.default": self.bit_linear,
            "bit_embedding.default": self.bit_embedding,
            "pack_keys.default": self.pack_keys,
            "pack_values.default": self.pack_values,
            "append_keys.default": self.append_keys,
            "append_values.default": self.append_values,
            "attention_scores.default": self.attention_scores,
            "attention_context.default": self.attention_context,
            "attention.default": self.attention,
        }

    def bit_linear(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::bit_linear` over all leading dimensions as rows."""
        x, x_scale, packed, weight_scale, bias = (operand(importer, argument) for argument in node.args[:5])
        x_encoding, weight_encoding, center, columns = cast("tuple[str, str, bool, int]", node.args[5:9])
        function = str(node.args[9]) if len(node.args) > 9 else ""
        shape = list(x.ty.shape)
        rows, outputs = product(shape[:-1]), int(weight_scale.ty.shape[0])
        weight = Encoding(weight_encoding)
        spec = linear.LinearSpec(
            outputs, columns, Encoding(x_encoding), weight, center, bias is not None, self.isa, function
        )
        args = [reshape(importer, x, [rows, columns]), x_scale, packed, weight_scale]
        build = linear.linear
        y = self.call(importer, spec, build, args if bias is None else [*args, bias], [rows, outputs])
        return reshape(importer, y, [*shape[:-1], outputs])

    def bit_embedding(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::bit_embedding` over ids of any shape."""
        ids, packed, weight_scale = (operand(importer, argument) for argument in node.args[:3])
        encoding, columns = cast("tuple[str, int]", node.args[3:])
        shape = list(ids.ty.shape)
        count, rows = product(shape), int(weight_scale.ty.shape[0])
        layout = node.args[1].meta.get("layout", Layout.PLANES)  # type: ignore[union-attr]
        spec = embedding.EmbeddingSpec(rows, columns, Encoding(encoding), layout, self.isa)
        args = [reshape(importer, ids, [count]), packed, weight_scale]
        y = self.call(importer, spec, embedding.embedding, args, [count, columns])
        return reshape(importer, y, [*shape, columns])

    def pack_keys(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::pack_keys`."""
        keys, scale = (operand(importer, argument) for argument in node.args[:2])
        spec = self._packing(keys, node, 2)
        batch, heads, length, _ = heads_first(keys, spec)
        shape = [batch, heads, length, spec.row_length]
        return self.call(importer, spec, pack_cache.pack_keys, [keys, scale], shape, spec.row_type)

    def pack_values(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::pack_values`; 8-bit values are stored like keys."""
        values, scale = (operand(importer, argument) for argument in node.args[:2])
        spec = self._packing(values, node, 2)
        if spec.encoding.dynamic:
            return self.pack_keys(node, importer)
        batch, heads, length, width = heads_first(values, spec)
        shape = [batch, heads, words_for(length), spec.encoding.planes, width]
        return self.call(importer, spec, pack_cache.pack_values, [values, scale], shape, "uint64")

    def append_keys(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::append_keys`; the past is not an argument of the kernel, which finds it in its output."""
        past, keys, scale = (operand(importer, argument) for argument in node.args[:3])
        spec = self._packing(keys, node, 3)
        batch, heads, length, _ = heads_first(keys, spec)
        shape = [batch, heads, past.ty.shape[2] + length, spec.row_length]
        args = [keys, scale, relax.prim_value(past.ty.shape[2])]
        return self.call(importer, spec, pack_cache.append_keys, args, shape, spec.row_type)

    def append_values(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::append_values` likewise; the number of past tokens is read off the packed keys."""
        past_keys, values, scale = (operand(importer, argument) for argument in node.args[1:4])
        spec = self._packing(values, node, 4)
        batch, heads, length, width = heads_first(values, spec)
        past = past_keys.ty.shape[2]
        shape = [batch, heads, words_for(past + length), spec.encoding.planes, width]
        args = [values, scale, relax.prim_value(past)]
        return self.call(importer, spec, pack_cache.append_values, args, shape, "uint64")

    def _packing(self, x: Expr, node: fx.Node, place: int) -> PackSpec:
        """How `x` is packed, from the arguments of its operator behind `place`."""
        encoding, center = Encoding(node.args[place]), bool(node.args[place + 1])
        return PackSpec(int(x.ty.shape[-1]), encoding, center, self.isa, is_heads_last(node))

    def attention(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::attention`."""
        query, query_scale, keys, key_scale, mask, factor, *others = (
            operand(importer, argument) for argument in node.args[:9]
        )
        heads_last = is_heads_last(node)
        heads = query.ty.shape[2 if heads_last else 1]
        first = self._product(heads, keys, query.ty.shape[-1], node.args[9:12])
        second = self._product(heads, others[1], values_width(others[1], node.args[13]), node.args[12:15])
        spec = attention.FusedSpec(first, second, float(factor), mask is not None, heads_last)
        masks = [] if mask is None else [mask]
        args = [query, query_scale, keys, key_scale, *masks, *others]
        return self.call(importer, spec, attention.attention, args, [*list(query.ty.shape)[:-1], second.d])

    def attention_scores(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::attention_scores`."""
        query, query_scale, keys, key_scale = (operand(importer, argument) for argument in node.args[:4])
        *lead, width = query.ty.shape
        spec = self._product(lead[1], keys, width, node.args[4:7])
        args = [query, query_scale, keys, key_scale]
        return self.call(importer, spec, attention.qk, args, [*lead, keys.ty.shape[2]])

    def attention_context(self, node: fx.Node, importer: Any) -> Expr:
        """`tbt::attention_context`."""
        weights, weights_scale, values, value_scale = (operand(importer, a) for a in node.args[:4])
        width = values_width(values, node.args[5])
        spec = self._product(weights.ty.shape[1], values, width, node.args[4:7])
        args = [weights, weights_scale, values, value_scale]
        return self.call(importer, spec, attention.pv, args, [*list(weights.ty.shape)[:-1], spec.d])

    def _product(self, heads: Any, packed: Expr, width: Any, kinds: Sequence[Any]) -> AttentionSpec:
        """A product of rows of so many heads with keys or values, which may have fewer.

        `kinds`: the encodings of both, and whether the rows are centred.
        """
        left, right, center = kinds
        groups = int(heads) // int(packed.ty.shape[1])
        return AttentionSpec(int(width), Encoding(left), Encoding(right), bool(center), self.isa, groups)


def is_heads_last(node: fx.Node) -> bool:
    """The last argument of an attention operator, which may be left out."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return len(node.args) == len(schema) and node.args[-1] is True


def heads_first(x: Expr, spec: PackSpec) -> list[Any]:
    """The dimensions of what is packed, as [B, H, T, D]."""
    batch, *middle, width = x.ty.shape
    return [batch, *(reversed(middle) if spec.heads_last else middle), width]


def kernel_name(operator: str, spec: Any) -> str:
    """A readable name that tells two specs of an operator apart: "linear_768_768_ternary_binary_1_1"."""
    return "_".join([operator, *_parts(spec)]).replace(".", "p").replace("-", "m")


def _parts(spec: Any) -> list[str]:
    parts = []
    for name, value in vars(spec).items():
        if isinstance(value, Encoding):
            parts.append(value.value)
        elif is_dataclass(value) and name != "isa":
            parts += _parts(value)
        elif name != "isa" and value != "":
            parts.append(str(int(value) if isinstance(value, bool) else value))
    return parts


def operand(importer: Any, argument: Any) -> Expr:
    """The Relax expression of an FX node; anything else as it is."""
    return importer.env[argument] if isinstance(argument, fx.Node) else argument


def product(shape: Sequence[Any]) -> Any:
    """The number of elements of a shape, symbolic if one dimension is."""
    return reduce(mul, shape, 1)


def values_width(values: Expr, encoding: Any) -> int:
    """Features of packed values: their last dimension, without the scale that a row of bytes ends with."""
    return int(values.ty.shape[-1]) - (SCALE_BYTES if Encoding(encoding).dynamic else 0)


def reshape(importer: Any, x: Expr, shape: list[Any]) -> Expr:
    """`x` with leading dimensions joined or split; nothing is copied."""
    if len(x.ty.shape) == len(shape):
        return x
    return importer.block_builder.emit(relax.op.reshape(x, shape))
