"""Put quantized calls into the modules that make them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import fx, nn

from tbt_compile.errors import PlanError
from tbt_compile.modules.family import quantized_class
from tbt_compile.modules.interception import CALLS, Calls, QuantizedCalls, guard
from tbt_compile.modules.products import method_name, product_name
from tbt_compile.passes.prepare.insert_quantizers import quantized_call
from tbt_compile.passes.prepare.site_plan import SitePlan

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


def write_calls(context: PrepareContext, sites: Iterable[SitePlan]) -> None:
    """Make the owner of each site run its calls quantized.

    A `GraphModule` calls the quantized modules in its own graph. Any other module gets a class that
    intercepts its calls; layers of PyTorch with a fused path are kept from taking it.

    Args:
        context: holds the model, the quantizers and the calls of every module.
        sites: the sites that are calls.

    Raises:
        PlanError: a module already has an attribute of the name that the calls get.
    """
    by_owner: dict[str, list[SitePlan]] = {}
    for site in sites:
        by_owner.setdefault(site.owner, []).append(site)
    for name in by_owner:
        if hasattr(context.model.get_submodule(name), CALLS):
            raise PlanError(f"module {name!r} already has an attribute {CALLS!r}: rename it")
    for name, owned in by_owner.items():
        module = context.model.get_submodule(name)
        names = context.calls[name]
        assert names is not None, "a module whose calls change has no call sites"
        calls = Calls(names, [site.to_dict() for site in owned])
        for site in owned:
            for made in site.calls:
                calls.add_module(str(made.number), quantized_call(site, made, context))
        if isinstance(module, fx.GraphModule):
            module.add_module(CALLS, calls)
            _rewrite(module, calls)
        else:
            guard(module)
            module.add_module(CALLS, calls)
            module.__class__ = quantized_class(type(module), QuantizedCalls, outermost=True)
    if by_owner:
        _leave_fused_paths(context.model)


def _rewrite(module: fx.GraphModule, calls: Calls) -> None:
    """Call the quantized modules in the graph."""
    number = 0
    for node in list(module.graph.nodes):
        name = product_name(node.target) if node.op == "call_function" else None
        name = method_name(str(node.target)) if node.op == "call_method" else name
        if name is None:
            continue
        if calls.call(number) is not None:
            node.op, node.target = "call_module", f"{CALLS}.{number}"
        number += 1
    module.graph.lint()
    module.recompile()


def _leave_fused_paths(model: nn.Module) -> None:
    """Turn off what `nn.TransformerEncoder` does in evaluation mode instead of calling its submodules."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
