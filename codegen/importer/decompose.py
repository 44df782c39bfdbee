"""Decompose the operators that have no converter into ones that have, with PyTorch's own decompositions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from tbt_compile.codegen.importer.expand import NotExpandableError, expand
from tbt_compile.codegen.importer.refusals import decomposition, refusal, unsupported
from tbt_compile.codegen.importer.registry import CONVERTERS
from tbt_compile.codegen.importer.units import CHECKS, known_operators
from tbt_compile.errors import LoweringError
from tbt_compile.ops.definitions import DEFINITIONS
from tbt_compile.passes.lowering import LoweringContext

_ROUNDS = 8
"""Decompositions may use operators that have to be decomposed in turn."""


_RUN_AGAIN = frozenset({torch.ops.aten.lstm.input})
"""Operators whose definition asks whether oneDNN could run them, which it cannot in a whole program."""


_DEFINED = frozenset(target.__name__ for target in DEFINITIONS)


def decompose(unit: LoweringContext) -> None:
    """Decompose what cannot be imported, in place; a unit without such operators stays as it is.

    Raises:
        LoweringError: an operator has neither a converter nor a decomposition.
    """
    # The importer knows a tensor by the node that made it: a functional graph first, if need be.
    if any(map(_has_to_be_functional, unit.graph.nodes)):
        _run(unit, {})
    for _ in range(_ROUNDS):
        if not _expanded(unit):
            break
    left = unsupported(unit.graph)
    if left:
        raise LoweringError(refusal(left[0], unit.root))


def _expanded(unit: LoweringContext) -> bool:
    """Expand the calls that have a definition or cannot be imported. Returns whether there were any."""
    table: dict[Any, Callable[..., Any]] = {}
    wanted, changed = set(unsupported(unit.graph)), False
    for node in list(unit.graph.nodes):
        definitions = [DEFINITIONS.get(node.target)] if node.op == "call_function" else []
        if node in wanted:
            definitions.append(decomposition(node.target))
            if definitions == [None, None]:
                raise LoweringError(refusal(node, unit.root))
        for definition in filter(None, definitions):
            try:
                if node.target in _RUN_AGAIN:
                    raise NotExpandableError(node.name)
                with _decomposing(unit):
                    is_expanded = expand(node, definition, definition is DEFINITIONS.get(node.target))
            except NotExpandableError:
                table[node.target] = definition
                break
            if is_expanded:
                changed = True
                break
    if table:
        _run(unit, table)
    return changed or bool(table)


def _run(unit: LoweringContext, table: dict[Any, Callable[..., Any]]) -> None:
    with _decomposing(unit):
        unit.program = unit.program.run_decompositions(table)


@contextmanager
def _decomposing(unit: LoweringContext) -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except NotExpandableError:
            raise
        except Exception as error:  # torch raises many kinds
            reason = str(error).strip().partition("\n")[0]
            raise LoweringError(
                f"the {unit.name} cannot be decomposed for compilation ({type(error).__name__}: {reason}): "
                "keep the part of the model that fails out of the module that is compiled"
            ) from error


def _has_to_be_functional(node: fx.Node) -> bool:
    """Whether a call changes a tensor in place in a way that the importer does not follow.

    It does not if other nodes read that tensor, or if it is a view; nor if only the functional operator has a
    converter here.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    changed, name = node.args[0], node.target.__name__  # type: ignore[union-attr]
    made = getattr(changed.target, "_schema", None)
    is_view = made is None or any(value.alias_info for value in made.returns)
    if is_view or len(changed.users) > 1 or name.replace("_.", ".") in _DEFINED:
        return True
    return name not in CONVERTERS and (name not in known_operators() or name.replace("_.", ".") in CONVERTERS)


def supported_operators() -> dict[str, str]:
    """How each ATen operator is compiled, by its name and overload, such as "add.Tensor".

    An operator is listed as decomposed if PyTorch has a decomposition; whether what it decomposes into can be
    compiled shows when a model calls it.
    """
    found = dict.fromkeys(sorted(known_operators() - CHECKS), "kernel of tbt-compile or TVM")
    core = (target.__name__ for target in torch._decomp.core_aten_decompositions())
    return found | dict.fromkeys(sorted(set(core) - found.keys()), "decomposed")
