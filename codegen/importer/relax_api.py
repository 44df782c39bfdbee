"""What this package uses of TVM's Relax level beyond single kernels; see `tvm_api` for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from torch.export import ExportedProgram
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tbt_compile.codegen.tvm_api import Expr, IRModule, Target, ir, relax, tvm


def import_program(
    program: ExportedProgram, converters: dict[str, Callable[[fx.Node, Any], Expr]]
) -> IRModule:
    """An exported program as a Relax module whose function `main` takes parameters as arguments.

    Args:
        program: imported as it is, without decomposing its operators further.
        converters: by operator and overload, such as "add.Tensor"; called with a node and the importer. They
            replace TVM's own, which they reach through the importer's `replaced`.
    """
    return _Importer().from_exported_program(
        program,
        keep_params_as_input=True,
        unwrap_unit_return_tuple=False,
        no_bind_return_tuple=False,
        custom_convert_map=converters,
    )


def rename_functions(module: IRModule, names: dict[str, str], taken: dict[str, Any]) -> dict[Any, Any]:
    """The functions of a module under new names, by global variable.

    Args:
        module: its functions stay as they are.
        names: the new name of every function by its old one.
        taken: variables of the module that is being assembled, by name. A function renamed to one of them
            shares the variable, so that callers in both modules reach the same function.
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

    These are the first passes of TVM's CPU pipeline, except that a reshape stays an operator: TVM's own pass
    looks for functions that only reshape, and fails on functions that are not written as schedulable blocks,
    as our kernels are not.
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


class _Importer(ExportedProgramImporter):
    """TVM's importer, which keeps the converters that ours replace.

    Attributes:
        replaced: by operator and overload; each takes a node.
    """

    def update_convert_map(self, custom_convert_map: dict[str, Any]) -> None:
        self.replaced = {
            name: self.convert_map[name] for name in custom_convert_map if name in self.convert_map
        }
        super().update_convert_map(custom_convert_map)


@relax.expr_functor.mutator
class _Rename(relax.expr_functor.PyExprMutator):
    def __init__(self, variables: dict[str, Any]) -> None:
        super().__init__()
        self.variables = variables

    def visit_global_var_(self, op: Any) -> Any:
        return self.variables[op.name_hint]
