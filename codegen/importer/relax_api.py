"""The Relax API that this package uses to import and legalize whole programs; `tvm_api` has the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tbt_compile.codegen.importer.known_sizes import KnownSizes, without_dimensions
from tbt_compile.codegen.importer.promotion import computed_in, narrower, wrap_numbers
from tbt_compile.codegen.importer.symbolic_numbers import PYTHON_FUNCTIONS, symbolic, tensor_of
from tbt_compile.codegen.tvm_api import OPAQUE, Expr, IRModule, PrimFunc, Target, ir, relax, tvm
from tbt_compile.dtypes import dtype_name

_PACKAGE = Path(__file__).parents[2]


def import_program(
    program: ExportedProgram, converters: dict[str, Callable[[fx.Node, Any], Expr]]
) -> IRModule:
    """Import an exported program into a Relax module whose `main` takes the parameters as arguments.

    Args:
        program: imported without further decomposition of its operators.
        converters: by operator and overload, such as "add.Tensor"; called with a node and the importer. They
            override TVM's converters, which stay reachable through the importer's `replaced`.

    Returns:
        The module.

    Raises:
        ConversionError: a call cannot be converted.
    """
    importer = _Importer()
    try:
        return importer.from_exported_program(
            program,
            keep_params_as_input=True,
            unwrap_unit_return_tuple=False,
            no_bind_return_tuple=False,
            custom_convert_map=converters,
        )
    except Exception as error:
        if importer.node is None:
            raise
        raise ConversionError(importer.node, error) from error


class ConversionError(Exception):
    """A call that cannot be converted; the text says why, in the words of our converter if it has one.

    Attributes:
        node: the call.
    """

    def __init__(self, node: fx.Node, error: Exception) -> None:
        super().__init__(str(error) if _is_ours(error) else _for_operands(node))
        self.node = node


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised in this package: what TVM raises speaks of TVM's program."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    inside = trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE)
    return inside and isinstance(error, ValueError)


def _for_operands(node: fx.Node) -> str:
    operands = [_described(each) for each in pytree.tree_leaves((node.args, node.kwargs)) if each is not None]
    return (
        f"not with the operands {', '.join(operands)}; write it with other operators (`tbt operators` lists "
        "them), or keep that part out of the module that is compiled"
    )


def _described(operand: Any) -> str:
    value = operand.meta.get("val") if isinstance(operand, fx.Node) else operand
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)} [{', '.join(map(str, value.shape))}]"
    return str(value)


@functools.cache
def tvm_converters() -> frozenset[str]:
    """The operators and overloads that TVM's importer converts truly, such as "add.Tensor"."""
    return frozenset(ExportedProgramImporter().convert_map) - _UNTRUE


# Wrong for some arguments, or refused: numbers that are no booleans, targets beyond the classes, sizes of the
# grid, NaN, large numbers, indices outside, layers and directions, the order of sums, a function of TVM that
# is gone. PyTorch
# decomposes them.
_UNTRUE = frozenset(
    {
        *("any.dim", "any.dims", "linalg_vector_norm.default", "take.default", "einsum.default"),
        *("elu.default", "selu.default", "softshrink.default", "logaddexp.default"),
        *("cross_entropy_loss.default", "grid_sampler_2d.default", "pixel_shuffle.default"),
        *("gru.input", "lstm.input", "rnn_relu.input", "rnn_tanh.input"),
    }
)


def rename_functions(module: IRModule, names: dict[str, str], taken: dict[str, Any]) -> dict[Any, Any]:
    """Copy the functions of a module under new names.

    Args:
        module: the source; it is not changed.
        names: new names by old names, for every function.
        taken: variables of the module being assembled, by name. A function renamed to one of them shares the
            variable: callers in both modules reach the same function.

    Returns:
        The renamed functions by global variable.
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
    """Lower a Relax module to functions that only allocate tensors, view them and call kernels.

    These are the first passes of TVM's CPU pipeline, but a reshape stays an operator: TVM's pass looks for
    functions that only reshape, and fails on functions without schedulable blocks, such as our kernels.
    """
    with target:
        try:
            return _fused(module, ())
        except tvm.error.InternalError:
            apart = tvm.transform.module_pass(_keep_numbers_apart, opt_level=0)
            return _fused(module, (apart,))


def _fused(module: IRModule, before_fusion: tuple[Any, ...]) -> IRModule:
    transform = relax.transform
    passes = [
        relax.backend.DispatchSortScan(),
        transform.LegalizeOps(skip_ops=["relax.reshape"]),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        *before_fusion,
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
    ]
    return tvm.transform.Sequential(passes)(module)


def _keep_numbers_apart(module: IRModule, _context: Any) -> IRModule:
    """Keep functions that take a number from being fused.

    TVM's FuseTIR fails where another function of the group has a size in its output that no input shows:
    `arange(past, past + 1).expand(rows, 1)`. Used only where it fails, as each is then a kernel of its own.
    """
    functions = {
        variable: function.with_attr("op_pattern", OPAQUE) if _takes_number(function) else function
        for variable, function in module.functions.items()
    }
    return IRModule(functions, attrs=module.attrs)


def _takes_number(function: Any) -> bool:
    return isinstance(function, PrimFunc) and any(isinstance(p.ty, ir.PrimType) for p in function.params)


class _Importer(ExportedProgramImporter):
    """TVM's importer, extended to keep the converters that ours replace.

    Attributes:
        replaced: the replaced converters by operator and overload; each takes a node.
        node: the call that is being converted, or was last.
        sizes: the sizes of every graph being imported.
    """

    convert_map: dict[str, Callable[..., Expr]]
    node: fx.Node | None = None

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[fx.Graph, KnownSizes] = {}

    def update_convert_map(self, custom_convert_map: dict[str, Any]) -> None:
        self.replaced = {
            name: self.convert_map[name] for name in custom_convert_map if name in self.convert_map
        }
        super().update_convert_map(custom_convert_map)
        self.convert_map |= {name: self._number(compute) for name, compute in PYTHON_FUNCTIONS.items()}
        self.convert_map = {name: self._promoting(convert) for name, convert in self.convert_map.items()}

    def _check_unsupported_func_type(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            if node.op == "call_function" and node.target.__name__ not in self.convert_map:  # type: ignore[union-attr]
                self.node = node
                raise ValueError(
                    "it has no compiled form; write it with operators that `tbt operators` lists, or keep "
                    "that part out of the module that is compiled"
                )

    def _promoting(self, convert: Callable[..., Expr]) -> Callable[..., Expr]:
        """Convert calls with operands in the dtype that PyTorch computes in, results in the sizes it knows.

        Relax does not promote, and takes no tensor without dimensions where a call names one.
        """

        @functools.wraps(convert)
        def promoting(node: fx.Node, *importer: Any) -> Expr:
            self.node, dtype = node, computed_in(node)
            wrap_numbers(node, dtype)
            operands = [] if dtype is None else [*narrower(node, dtype), *symbolic(node)]
            stored = {each: self.env[each] for each in operands}
            name = "" if dtype is None else dtype_name(dtype)
            for each, operand in stored.items():
                is_tensor = isinstance(operand.ty, relax.TensorType)
                self.env[each] = (
                    self.block_builder.emit(relax.op.astype(operand, name))
                    if is_tensor
                    else tensor_of(operand, name, self.block_builder)
                )
            single = without_dimensions(node)
            if single is not None:
                stored.setdefault(single, self.env[single])
                self.env[single] = self.block_builder.emit(relax.op.reshape(self.env[single], [1]))
            fitting = self._sizes(node.graph).fitting(node, self.env, self.block_builder)
            stored |= {each: self.env[each] for each in fitting if each not in stored}
            self.env.update(fitting)
            converted = convert(node, *importer)
            self.env.update(stored)
            if single is not None:
                converted = self._without_dimensions(converted)
            return self._sizes(node.graph).settle(node, converted, self.block_builder)

        return promoting

    def _without_dimensions(self, value: Expr) -> Expr:
        """Views of no dimensions of a tensor, or of those of a tuple."""
        builder = self.block_builder
        if isinstance(value.ty, relax.TensorType):
            return builder.emit(relax.op.reshape(value, []))
        fields = (builder.emit(relax.TupleGetItem(value, each)) for each in range(len(value.ty.fields)))
        return builder.emit(relax.Tuple(list(map(self._without_dimensions, fields))))

    def _sizes(self, graph: fx.Graph) -> KnownSizes:
        """The sizes of the graph, with those of its inputs."""
        if graph not in self.sizes:
            self.sizes[graph] = KnownSizes()
            for node in graph.find_nodes(op="placeholder"):
                self.sizes[graph].learn(node, self.env[node])
        return self.sizes[graph]

    def _number(self, compute: Callable[..., Any]) -> Callable[[fx.Node], Any]:
        """Convert calls of a function of Python on numbers that are computed from sizes."""

        def convert(node: fx.Node) -> Any:
            return compute(*(self.env[each] if isinstance(each, fx.Node) else each for each in node.args))

        return convert


@relax.expr_functor.mutator
class _Rename(relax.expr_functor.PyExprMutator):
    def __init__(self, variables: dict[str, Any]) -> None:
        super().__init__()
        self.variables = variables

    def visit_global_var_(self, op: Any) -> Any:
        return self.variables[op.name_hint]
