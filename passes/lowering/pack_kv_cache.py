"""Keep attention caches packed: quantize a token once, when it is appended, instead of at every step.

Scales of keys and values are static or per token, so quantization commutes with concatenation along tokens.
The pass hoists each packing operator above the cache: the unit takes packed caches, packs only the tokens
that it appends, and returns packed caches. A cache that something else reads too stays float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError
from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext
from tbt_compile.passes.lowering.match import (
    ATEN,
    TBT,
    is_call,
    match_call,
    replace,
    replace_with,
)

PACKS = (TBT.pack_keys.default, TBT.pack_values.default)
TOKENS = 2  # dimension of keys and values `[B, H, T, ...]` along which tokens are appended


def packs_along_tokens(pack: fx.Node) -> bool:
    """Whether packed words span several tokens, as for values below 8 bits: such words do not concatenate."""
    return is_call(pack, TBT.pack_values.default) and not Encoding(operands(pack).encoding).dynamic


def _readers(node: fx.Node) -> list[fx.Node]:
    """The calls that read the elements of a tensor."""
    return [user for user in node.users if user.op != "output" and not is_call(user, ATEN.sym_size.int)]


def _call(node: fx.Node) -> tuple[Any, ...]:
    return node.target, node.args, node.kwargs


def agree_on_caches(units: Sequence[LoweringContext], name: str) -> None:
    """Let the first step of a model return the caches that its other steps take, in place.

    A cache that later steps keep float, as something else reads it there, leaves the first step float.

    Args:
        units: of one model, lowered.
        name: of the model.

    Raises:
        LoweringError: something else reads a cache in the first step only.
    """
    named = {unit.name: unit for unit in units}
    if not named.keys() >= {"first_step", "step"}:
        return
    returned: Any = named["first_step"].graph.output_node().args[0]
    outputs = list(returned)
    inputs = {node.name: node for node in named["step"].graph.find_nodes(op="placeholder")}
    for made, taken in zip(named["first_step"].caches, named["step"].caches, strict=True):
        halves = ((made.key_output, taken.key_input), (made.value_output, taken.value_input))
        for output, cached in halves:
            if output is None or cached is None:
                continue
            is_packed = is_call(outputs[output], *PACKS)
            is_float = inputs[cached].meta["val"].is_floating_point()
            if is_packed and is_float:
                outputs[output] = _unpacked(outputs[output])
            elif is_packed is is_float:
                raise LoweringError(
                    f"{name} reads its cache of keys and values outside of attention in its first step only, "
                    "so that it cannot be kept packed: run the frozen model in eager mode"
                )
    named["first_step"].graph.output_node().args = (tuple(outputs),)


def takes_caches_of(unit: LoweringContext, other: LoweringContext) -> bool:
    """Whether two units of a model take and return the same caches, packed alike."""

    def caches(each: LoweringContext) -> list[tuple[Any, ...]]:
        inputs = {node.name: node.meta["val"] for node in each.graph.find_nodes(op="placeholder")}
        taken = [name for slot in each.caches for name in (slot.key_input, slot.value_input) if name]
        return [(name, inputs[name].dtype, inputs[name].dim()) for name in taken]

    return unit.caches == other.caches and caches(unit) == caches(other)


def _unpacked(pack: fx.Node) -> fx.Node:
    """The keys or values that a call packs, `[B, H, T, D]`."""
    source: fx.Node = pack.args[0]  # type: ignore[assignment]
    if not operands(pack).heads_last:
        return source
    with pack.graph.inserting_before(pack):
        transposed = pack.graph.call_function(ATEN.transpose.int, (source, 1, 2))
    transposed.meta["val"] = source.meta["val"].transpose(1, 2)
    return transposed


class _Packer:
    """Packs the caches of one unit.

    Attributes:
        words: symbolic word count of packed values by token count; caches of equal length share the symbol.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.inputs = {node.name: node for node in graph.nodes if node.op == "placeholder"}
        self.words: dict[str, Any] = {}

    def pack(self, slot: CacheSlot) -> int:
        """Pack the keys and values of one cache. Returns the number of packing operators rewritten."""
        key_input = self.inputs.get(slot.key_input or "")
        value_input = self.inputs.get(slot.value_input or "")
        if value_input is not None:
            for user in list(value_input.users):
                if is_call(user, ATEN.sym_size.int):  # packed values are padded to words: ask the keys
                    user.replace_input_with(value_input, key_input)
        packed_keys = self._half(key_input, slot.key_output, None)
        return packed_keys + self._half(value_input, slot.value_output, key_input)

    def _half(self, cached: fx.Node | None, output: int | None, past_keys: fx.Node | None) -> int:
        """Pack the keys (`past_keys` is None) or the values of a cache. Returns the number of rewrites."""
        source = self._outputs[output] if output is not None else cached
        assert source is not None, "a cache slot without an input has an output"
        pack = self._only_pack(source)
        if pack is None or (source is not cached and cached is not None and _readers(cached) != [source]):
            return 0
        if source is cached:
            self._set_packed_shape(cached, pack)
            replace_with(pack, cached)
            packed = cached
        elif cached is not None:
            packed = self._append(pack, source, cached, past_keys)
        else:
            packed = pack
        if output is not None:
            self._set_output(output, packed)
        return 1

    def _only_pack(self, source: fx.Node) -> fx.Node | None:
        """The packing operator that reads keys or values, if nothing else reads them.

        Attention that is computed twice on one cache (differential attention) packs it twice alike.
        """
        readers = _readers(source)
        if not readers or not all(is_call(reader, *PACKS) for reader in readers):
            return None
        pack, *others = readers
        if any(
            (other.target, other.args, other.kwargs) != (pack.target, pack.args, pack.kwargs)
            for other in others
        ):
            return None
        for other in others:
            other.replace_all_uses_with(pack)
            self.graph.erase_node(other)
        return pack

    def _append(self, pack: fx.Node, source: fx.Node, cached: fx.Node, past_keys: fx.Node | None) -> fx.Node:
        """Rewrite `pack(cat([cached, new]))` to an operator that packs `new` behind a packed cache."""
        concatenation = match_call(source, ATEN.cat.default)
        assert concatenation, f"{source.name}: a cache grows by concatenation"
        past, new = concatenation.tensors
        assert past is cached, f"{source.name}: new tokens follow the cache"
        call = operands(pack)
        quantization = {"scale": call.scale, "encoding": call.encoding, "center": call.center}
        self._set_packed_shape(cached, pack)
        if packs_along_tokens(pack):
            append = TBT.append_values.default
            return replace(pack, append, past=cached, past_keys=past_keys, values=new, **quantization)
        return replace(pack, TBT.append_keys.default, past=cached, keys=new, **quantization)

    def _set_packed_shape(self, cached: fx.Node, pack: fx.Node) -> None:
        """Give a cache placeholder its packed shape; the word count of packed values is a new symbol."""
        value: Any = cached.meta["val"]
        mode: FakeTensorMode = value.fake_mode
        call = operands(pack)
        with mode:
            packed = pack.target(value, value.new_empty(()), encoding=call.encoding, center=call.center)  # type: ignore[operator]
            if packs_along_tokens(pack):
                assert mode.shape_env is not None
                tokens = str(value.shape[TOKENS])
                if tokens not in self.words:
                    self.words[tokens] = mode.shape_env.create_unbacked_symint()
                shape = (*packed.shape[:TOKENS], self.words[tokens], *packed.shape[TOKENS + 1 :])
                packed = packed.new_empty(shape)
        cached.meta["val"] = packed
        cached.meta.pop("tensor_meta", None)

    @property
    def _outputs(self) -> tuple[Any, ...]:
        (outputs,) = self.graph.output_node().args
        return outputs  # type: ignore[return-value]

    def _set_output(self, index: int, node: fx.Node) -> None:
        outputs = list(self._outputs)
        outputs[index] = node
        self.graph.output_node().args = (tuple(outputs),)


@dataclass(frozen=True)
class PackKVCache:
    """Packs every attention cache among the unit's inputs and outputs.

    Needs: fused attention, and the cache slots of the context. Leaves: cache inputs and outputs with the
    packed shapes; units that share a cache agree on them.
    """

    name: str = "pack-kv-cache"

    def apply(self, context: LoweringContext) -> PassResult:
        packer = _Packer(context.graph)
        changes = sum(packer.pack(slot) for slot in context.caches)
        context.graph.eliminate_dead_code()
        return PassResult(changes)
