"""Bind the tensors of an exported program to explicit arguments of the compiled function.

Parameters, buffers and constants become arguments: the compiled library holds no weights, and one library
serves every model of the same shape. Unused tensors are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import fx
from torch.export.graph_signature import InputKind, InputSpec

from tbt_compile.codegen.importer.parameters import PLAIN, SCALE, Parameter
from tbt_compile.codegen.kernels.linear.spec import weight_layout
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.dtypes import dtype_name
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError
from tbt_compile.ops.linear import bit_linear
from tbt_compile.ops.operands import operands
from tbt_compile.ops.schema import PackedWeight, Scale, declared_uses, operator_of
from tbt_compile.passes.lowering import LoweringContext


def weight_layouts(units: list[LoweringContext], isa: Isa) -> dict[int, Layout]:
    """The layouts in which linear layers read their weights, by data address of the weight.

    Raises:
        LoweringError: two layers share a weight but read it in different layouts.
    """
    layouts: dict[int, Layout] = {}
    for unit in units:
        stored = {**unit.program.state_dict, **unit.program.constants}
        targets = {spec.arg.name: str(spec.target) for spec in unit.program.graph_signature.input_specs}
        for node in unit.graph.nodes:
            if operator_of(node) is bit_linear:
                call = operands(node)
                address = stored[targets[call.packed.name]].data_ptr()
                layout = weight_layout(Encoding(call.x_encoding), Encoding(call.weight_encoding), isa)
                if layouts.setdefault(address, layout) is not layout:
                    raise LoweringError(
                        "a weight is shared by a layer with 8-bit activations and one with fewer bits, which "
                        "read it in different layouts: quantize the activations of both to the same bits, or "
                        "do not share the weight"
                    )
    return layouts


def bind_parameters(
    unit: LoweringContext, isa: Isa, known: dict[int, str], layouts: Mapping[int, Layout]
) -> tuple[list[Parameter], dict[str, torch.Tensor]]:
    """Describe every tensor argument of a unit and give its placeholder the shape that the kernels read.

    Unused placeholders are erased.

    Args:
        unit: a lowered unit; its graph and signature are changed in place.
        isa: instruction set, for the shape of interleaved weights.
        known: names of the frozen model's tensors by data address; units that share a tensor agree on its
            name. Other constants are named after the unit.
        layouts: the layouts of weights by data address, see `weight_layouts`.

    Returns:
        The parameters in the order of the compiled function's arguments, which follow the user inputs; and
        the tensor of each by name.
    """
    program, graph = unit.program, unit.graph
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    stored = {**program.state_dict, **program.constants}
    tensors: dict[str, torch.Tensor] = {}
    user_specs, parameter_specs, parameters = [], [], []
    cached = {name for slot in unit.caches for name in (slot.key_input, slot.value_input)}
    for spec in program.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            user_specs.append(spec)
            _declare(node, node.name in cached)
        elif not node.users:
            graph.erase_node(node)
        else:
            tensor = stored[str(spec.target)]
            name = known.get(tensor.data_ptr(), f"{unit.name}.{spec.target}")
            parameter = _describe(node, name, tensor, isa, layouts.get(tensor.data_ptr(), Layout.PLANES))
            parameters.append(parameter)
            tensors[name] = tensor
            parameter_specs.append(InputSpec(InputKind.USER_INPUT, spec.arg, None, None))
            node.meta["tensor_meta"] = SimpleNamespace(
                shape=parameter.shape, dtype=getattr(torch, parameter.dtype)
            )
    # The importer orders arguments by spec and binds values to parameters: declare all of them user inputs.
    program.graph_signature.input_specs[:] = user_specs + parameter_specs
    program.constants.clear()  # else the importer looks for their former arguments
    _reorder(graph, [nodes[spec.arg.name] for spec in program.graph_signature.input_specs])
    return parameters, tensors


def _declare(node: fx.Node, cached: bool) -> None:
    """Give a user input the dtype that the kernels read: uint64 for the packed words of a cache."""
    value = node.meta["val"]
    packed = cached and value.dtype == torch.int64
    node.meta["tensor_meta"] = SimpleNamespace(
        shape=value.shape, dtype=torch.uint64 if packed else value.dtype
    )


def _describe(node: fx.Node, name: str, tensor: torch.Tensor, isa: Isa, layout: Layout) -> Parameter:
    dtype = dtype_name(tensor.dtype)
    for user, operand in declared_uses(node):
        if isinstance(operand, PackedWeight):
            call = vars(operands(user))
            encoding, columns = Encoding(call[operand.encoding]), call[operand.columns]
            node.meta["layout"] = layout
            return Parameter.weight(name, tuple(tensor.shape), encoding, columns, isa, layout)
        if isinstance(operand, Scale):
            return Parameter(name, SCALE, dtype, (tensor.numel(),))
    return Parameter(name, PLAIN, dtype, tuple(tensor.shape))


def _reorder(graph: fx.Graph, placeholders: list[fx.Node]) -> None:
    first = next(iter(graph.nodes))
    for node in placeholders:
        if node is not first:
            first.prepend(node)
