"""What this package uses of TVM's Relax level beyond single kernels; see `tvm_api` for the rest."""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend.torch import from_exported_program

from tbt_compile.codegen.tvm_api import IRModule, Target, ir, relax, tvm


def rename_functions(module: IRModule, names: dict[str, str], taken: dict[str, Any]) -> dict[Any, Any]:
    """The functions of a module under new names, by global variable.

    `taken` holds variables of a module being assembled, by name: a function renamed to one of them shares
    the variable, so that callers of both modules reach the same function.
    """
    variables = {old: taken.get(new) or ir.GlobalVar(new) for old, new in names.items()}
    for variable in module.functions:
        if names[variable.name_hint] not in taken:
            relax.expr._update_type(variables[variable.name_hint], variable.ty)
    renamer = _Rename(variables)
    functions = {}
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            function = renamer.visit_expr(function).without_attr("params").without_attr("global_symbol")
            function = function.with_attr("global_symbol", names[variable.name_hint])
        functions[variables[variable.name_hint]] = function
    return functions


def to_kernels(module: IRModule, target: Target) -> IRModule:
    """A Relax module whose functions only allocate tensors, view them and call kernels.

    These are the first passes of TVM's CPU pipeline, except that a reshape stays an operator: TVM looks
    for functions that only reshape, and stops at those that are not written as schedulable blocks, as our
    kernels are not.
    """
    transform = relax.transform
    passes = [
        relax.backend.DispatchSortScan(),
        transform.LegalizeOps(skip_ops=["relax.reshape"]),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(module)


@relax.expr_functor.mutator
class _Rename(relax.expr_functor.PyExprMutator):
    def __init__(self, variables: dict[str, Any]) -> None:
        super().__init__()
        self.variables = variables

    def visit_global_var_(self, op: Any) -> Any:
        return self.variables[op.name_hint]


__all__ = ["from_exported_program", "rename_functions", "to_kernels"]
