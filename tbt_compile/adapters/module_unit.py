"""The export unit of a module that generates nothing: one call of its forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from tbt_compile.adapters.units import ExportUnits
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, is_call
from tbt_compile.signature import example_call
from tbt_compile.storage import MODULE


def export_module(model: nn.Module) -> ExportUnits:
    """Capture one call of a frozen module in eval mode; first dimensions are dynamic where it allows that.

    Raises:
        LoweringError: how the module is called is not known, it cannot be captured, or it returns something
            else than tensors.
    """
    inputs = example_call(model)
    dims = {
        name: {0: Dim.AUTO} if isinstance(value, Tensor) and value.dim() else None
        for name, value in inputs.items()
    }
    try:
        with torch.no_grad():
            program = torch.export.export(model.eval(), (), inputs, dynamic_shapes=dims, strict=False)
    except Exception as error:
        raise LoweringError(f"{type(model).__name__} cannot be captured for compilation: {error}") from error
    settings = {
        "inputs": _inputs(program, inputs),
        "outputs": _outputs(program, type(model).__name__),
        "constants": {name: value for name, value in inputs.items() if not isinstance(value, Tensor)},
    }
    return ExportUnits(MODULE, (LoweringContext("forward", program),), settings)


def _inputs(program: ExportedProgram, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, dtype and shape of every tensor argument, in order; a dynamic size is a name.

    An argument that an embedding looks up has a `below`: its values are indices under that number.
    """
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    symbols: dict[str, str] = {}
    described = []
    for name, spec in zip(inputs, specs, strict=True):
        if not isinstance(spec.arg, TensorArgument):
            continue
        node = nodes[spec.arg.name]
        value = node.meta["val"]
        shape = [
            size if isinstance(size, int) else symbols.setdefault(str(size), f"n{len(symbols)}")
            for size in value.shape
        ]
        below = _table_rows(node)
        described.append(
            {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}
            | ({"below": below} if below is not None else {})
        )
    return described


def _table_rows(node: fx.Node) -> int | None:
    """Rows of the smallest table that is looked up with these very indices."""
    tables = [user.args[0] for user in node.users if is_call(user, ATEN.embedding.default)]
    return min((int(table.meta["val"].shape[0]) for table in tables), default=None)  # type: ignore[union-attr]


def _outputs(program: ExportedProgram, name: str) -> int | list[str] | None:
    """What is returned: None for one tensor, a number for a tuple of tensors, names for a dict of them."""
    specs = program.graph_signature.output_specs
    count = len(specs)
    assert program.call_spec.out_spec is not None
    structure: Any = pytree.tree_unflatten(list(range(count)), program.call_spec.out_spec)
    tensors = all(
        spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument) for spec in specs
    )
    if tensors and structure == 0:
        return None
    if tensors and isinstance(structure, (list, tuple)) and list(structure) == list(range(count)):
        return count
    if tensors and isinstance(structure, Mapping) and list(structure.values()) == list(range(count)):
        return list(structure)
    raise LoweringError(
        f"{name} returns something else than a tensor, a tuple or a dict of tensors, or changes a buffer: "
        "wrap it in a module that returns its tensors"
    )
