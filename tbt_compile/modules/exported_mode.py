"""Let `train` and `eval` of an exported program's module switch what they switch in other modules.

torch.export writes the mode into the graph, as a constant operand of each dropout and batch norm, and gives
the module a `train` and an `eval` that raise NotImplementedError.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from tbt_compile.ops.operands import operands, set_operand

ATEN = torch.ops.aten
MODE = "tbt_mode"
"""The child whose forward returns the mode."""


class Mode(nn.Module):
    """Returns whether the module that it is a child of is in training mode."""

    def forward(self) -> bool:
        """Return the mode that `train` and `eval` of the parent have set."""
        return self.training


def follow_mode(model: nn.Module) -> None:
    """Make the graph of an exported program's module depend on `training`, in place; others stay as they are.

    Layers follow `train` and `eval`. An operator with the other mode than the layers, such as a dropout that
    is always active, stays as it is. The module is left in the mode in which it was exported. If that was
    evaluation, the graph has 0 for the dropout of attention weights, which stays inactive.
    """
    if not isinstance(model, fx.GraphModule) or "train" not in vars(model):
        return
    del model.train, model.eval  # what torch put in the place of the methods
    flags = {node: name for node in model.graph.nodes if (name := _flag(node)) is not None}
    attentions = [
        node
        for node in model.graph.find_nodes(
            op="call_function", target=ATEN.scaled_dot_product_attention.default
        )
        if operands(node).dropout_p
    ]
    if not flags and not attentions:
        return
    mode = bool(attentions) or _mode_of(flags)
    model.add_module(MODE, Mode())
    first = next(node for node in model.graph.nodes if node.op != "placeholder")
    with model.graph.inserting_before(first):
        training = model.graph.call_module(MODE)
    for node, name in flags.items():
        if vars(operands(node))[name] is mode:
            set_operand(node, name, training)
    for node in attentions:
        with model.graph.inserting_before(node):
            active = model.graph.call_function(operator.mul, (training, operands(node).dropout_p))
        set_operand(node, "dropout_p", active)
    for node in model.graph.find_nodes(op="call_function", target=ATEN.add_.Tensor):
        if str(getattr(node.args[0], "target", "")).endswith("num_batches_tracked"):
            node.target, node.args = count_batch, (node.args[0], training)
    model.graph.lint()
    model.recompile()
    model.train(mode)


def count_batch(batches: Tensor, training: bool) -> None:
    """Count a batch of a batch norm, in training mode."""
    if training:
        batches.add_(1)


def _flag(node: fx.Node) -> str | None:
    """The name of the operand that is the mode; None for operators that have none."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    names = [a.name for a in node.target._schema.arguments if a.name in ("train", "training")]
    if not names or getattr(operands(node), "running_mean", node) is None:  # it never uses running statistics
        return None
    return names[0]


def _mode_of(flags: dict[fx.Node, str]) -> bool:
    """The mode of an export: that of PyTorch's layers; without any, training if all operators are in it."""
    modes = {node: bool(vars(operands(node))[name]) for node, name in flags.items()}
    layers = [mode for node, mode in modes.items() if _is_of_a_layer(node)]
    return any(layers) if layers else all(modes.values())


def _is_of_a_layer(node: fx.Node) -> bool:
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return bool(stack) and str(list(stack.values())[-1][1]).startswith("torch.nn.modules.")
