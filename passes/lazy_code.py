"""The Python code of changed graphs, generated when it is needed.

`GraphModule.recompile` writes a program for the whole graph and compiles it: for the layers of a model that
takes longer than a pass. Between passes nobody runs it.
"""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.fx.graph import _PyTreeCodeGen


def recompile_later(module: fx.GraphModule) -> None:
    """Have a graph module generate its code when it is next called, or when its code is read."""
    codegen: Any = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        module._in_spec, module._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
    own: Any = type(module)  # every graph module has a class of its own
    own.forward, own.code = _forward, property(_code)


def _forward(self: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
    _recompile(self)
    return self(*args, **kwargs)


def _code(self: fx.GraphModule) -> str:
    _recompile(self)
    return self.code


def _recompile(module: fx.GraphModule) -> None:
    own: Any = type(module)
    if "code" in vars(own):
        del own.code
    module.recompile()
