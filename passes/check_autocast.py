"""Refuse autocast that a forward turns on: `torch.export` captures what runs under it as one call.

The call holds a graph with casts to half precision. Nothing in it is found by the passes of `prepare`, and
the compiler has no form for it. Autocast that is turned off is inlined, see `inline_contexts`.
"""

from __future__ import annotations

from torch import fx

from tbt_compile.errors import LoweringError
from tbt_compile.passes.prepare.aten import described_owner

AUTOCAST = "wrap_with_autocast"
ADVICE = "turn autocast on around the training step, not in a forward"


def autocast_call(graph: fx.Graph) -> fx.Node | None:
    """The first call of a subgraph under autocast, if there is one."""
    calls = (node for node in graph.nodes if getattr(node.target, "__name__", "") == AUTOCAST)
    return next(calls, None)


def check_autocast(graph: fx.Graph, root: str = "") -> None:
    """Refuse a graph with a part that runs under autocast.

    Args:
        graph: an exported graph.
        root: prefix of module names that the user's model lacks.

    Raises:
        LoweringError: it has such a part.
    """
    call = autocast_call(graph)
    if call is not None:
        raise LoweringError(
            f"{described_owner(call, root)} turns torch.autocast on in its forward: what runs under it is "
            f"neither quantized nor compiled; {ADVICE}"
        )
