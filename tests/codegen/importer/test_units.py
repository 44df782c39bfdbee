"""Lowered units to one Relax module: arguments instead of weights, shared kernels, torch's operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lowering_tools import activation, export, library_of, weight
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.codegen.importer.bind import bind_parameters
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.parameters import PLAIN, SCALE, WEIGHT, Parameter
from tbt_compile.codegen.importer.units import import_unit, import_units
from tbt_compile.codegen.layouts import Layout, by_quarters, interleave, pair
from tbt_compile.codegen.target.host import host_target
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import LoweringContext, lowering_pipeline
from tbt_compile.quantizers import quantized_embedding, quantized_linear
from tbt_compile.runtime.bound_library import BoundLibrary, as_array, tensor
from tbt_compile.storage.aligned import ALIGNMENT

ISA = host_target().isa
LENGTHS = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}


class Layer(nn.Module):
    """A quantized layer, 65 to 65, between operators of every kind that names a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.weight, self.bias = activation(2), weight(2, 65, 65), nn.Parameter(torch.randn(65))
        self.unused = nn.Parameter(torch.randn(3))
        self.register_buffer("shift", torch.randn(65))

    def forward(self, x: Tensor) -> Tensor:
        y = quantized_linear(self.input(x + self.shift), self.weight(), self.bias)
        return y * torch.tensor([2.0])


def unit_of(module: nn.Module, *args: Tensor, name: str = "unit") -> LoweringContext:
    dims = tuple(LENGTHS if argument.dim() > 1 else None for argument in args)
    return lowering_pipeline().run(export(module, *args, dims=dims, name=name))


def known(module: nn.Module) -> dict[int, str]:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {tensor.data_ptr(): name for name, tensor in named.items()}


def compiled(modules: dict[str, nn.Module], *args: Tensor) -> BoundLibrary:
    """Modules as the functions of one library, loaded."""
    root = nn.ModuleDict(modules)
    units = [unit_of(module, *args, name=name) for name, module in modules.items()]
    return library_of(units, known(root))


def test_every_tensor_becomes_an_argument() -> None:
    module = Layer()
    unit = unit_of(module, torch.randn(2, 3, 65))
    parameters, tensors = bind_parameters(unit, ISA, known(module), {})
    roles = {parameter.name: parameter.role for parameter in parameters}
    constant = next(name for name in roles if name.startswith("unit."))  # belongs to the unit alone
    assert roles == {
        "input.scale": SCALE,
        "weight.packed": WEIGHT,
        "weight.scale": SCALE,
        "bias": PLAIN,
        "shift": PLAIN,
        constant: PLAIN,
    }
    assert tensors.keys() == roles.keys()
    assert tensors["weight.packed"].data_ptr() == module.weight.packed.data_ptr()
    shapes = {parameter.name: parameter.shape for parameter in parameters}
    assert (shapes["input.scale"], shapes["weight.scale"], shapes["bias"]) == ((1,), (65,), (65,))
    inputs = [node.name for node in unit.graph.nodes if node.op == "placeholder"]
    assert inputs[0] == "x"
    assert len(inputs) == 1 + len(parameters)


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8])
def test_a_weight_is_frozen_one_way_and_arranged_for_the_machine(encoding: Encoding) -> None:
    bits = encoding.bits
    stored = weight(bits, 7, 65).packed.numpy()
    parameter = Parameter.weight("w", stored.shape, encoding, 65, ISA, Layout.PLANES)
    arranged = parameter.arrange(stored, ISA)
    assert arranged.shape == parameter.shape
    assert str(arranged.dtype) == parameter.dtype
    expected = stored if bits == 8 else interleave(stored.view(np.uint64), ISA)
    assert np.array_equal(arranged, expected)
    if encoding is Encoding.TERNARY:
        paired = Parameter.weight("w", stored.shape, encoding, 65, ISA, Layout.PAIRS)
        assert np.array_equal(paired.arrange(stored, ISA), interleave(pair(stored.view(np.uint64)), ISA))
    if encoding is not Encoding.INT8:
        quarters = Parameter.weight("w", stored.shape, encoding, 65, ISA, Layout.QUARTERS)
        assert np.array_equal(
            quarters.arrange(stored, ISA), by_quarters(interleave(stored.view(np.uint64), ISA))
        )
    frozen_scale = np.ones((7, 1), np.float32)
    scale = Parameter("s", SCALE, "float32", (7,)).arrange(frozen_scale, ISA)
    assert scale.shape == (7,)
    for copy in (arranged, scale):
        assert copy.ctypes.data % ALIGNMENT == 0
        assert not np.shares_memory(copy, stored)
        assert not np.shares_memory(copy, frozen_scale)


def test_units_share_kernels_and_keep_their_own_helpers() -> None:
    layer = Layer()
    units = [unit_of(layer, torch.randn(2, 3, 65), name=name) for name in ("first", "second")]
    imported = import_units(units, ISA, known(layer))
    names = [variable.name_hint for variable in imported.module.get_global_vars()]
    assert {"first", "second"} <= set(names)
    assert imported.kernels == ["linear_65_65_ternary_ternary_1_1"]
    assert names.count(imported.kernels[0]) == 1
    assert len(names) == len(set(names))
    assert imported.inputs == {"first": 1, "second": 1}
    shared = [p.name for p in imported.parameters["first"] if not p.name.startswith("first.")]
    assert shared == [p.name for p in imported.parameters["second"] if not p.name.startswith("second.")]


def test_a_library_of_two_functions_with_the_same_weights() -> None:
    first, second = Layer(), nn.Sequential(Layer(), nn.ReLU())
    second[0].weight, second[0].bias = first.weight, first.bias
    x = torch.randn(2, 3, 65)
    machine = compiled({"first": first, "second": second}, x)
    for rows, length in ((2, 3), (1, 1), (5, 7)):
        x = torch.randn(rows, length, 65)
        for name, module in (("first", first), ("second", second)):
            (got,) = machine.call(name, tensor(x.numpy()))
            np.testing.assert_allclose(as_array(got), module(x).detach(), rtol=1e-6, atol=1e-6)


class Everything(nn.Module):
    """Operators for which there is a converter of our own, and neighbours that are left to TVM."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.packed = nn.Embedding(7, 5), weight(1, 7, 5)
        self.norm, self.plain_norm = nn.LayerNorm(5), nn.LayerNorm(5, bias=False)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        positive = x > 0
        terms = [
            self.table(ids) + quantized_embedding(ids, self.packed()),
            x**2 + x**3 + x.abs() ** 1.5,
            torch.where(positive, x, 0.5) + torch.where(positive, 2.0, x),
            x.to(torch.device("cpu"), torch.float32) * x.new_ones(x.shape),
            self.norm(x + self.table(ids)) + self.norm(x) + self.plain_norm(x),
            torch.softmax(x, -1) + torch.softmax(x[:, None], -1)[:, 0] + torch.softmax(x, 1),
            nn.functional.gelu(x) + nn.functional.gelu(x, approximate="tanh") + nn.functional.silu(x),
        ]
        kept = torch.zeros_like(positive, dtype=x.dtype).masked_fill(positive, 2.0)
        terms.append(kept.clamp(min=0.5) + x.clamp(max=0.1) + torch.ones_like(ids, dtype=x.dtype)[..., None])
        lowest = torch.full_like(x, -torch.inf).maximum(x) + torch.zeros_like(x).masked_fill_(
            ~positive, -torch.inf
        )
        terms.append(torch.where(positive, lowest, 0.0))
        terms.append(x.new_zeros(x.shape) + torch.full_like(positive, 3, dtype=x.dtype) * x.clamp(-1, 1))
        return torch.stack(terms)


def test_operators_compute_what_torch_computes() -> None:
    module = Everything()
    ids, x = torch.randint(7, (2, 3)), torch.randn(2, 3, 5)
    machine = compiled({"main": module}, ids, x)
    for rows, length in ((2, 3), (1, 1), (4, 18)):
        ids, x = torch.randint(7, (rows, length)), torch.randn(rows, length, 5)
        (got,) = machine.call("main", tensor(ids.numpy()), tensor(x.numpy()))
        np.testing.assert_allclose(as_array(got), module(ids, x).detach(), rtol=2e-6, atol=2e-6)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(-1, -2))


def test_an_operator_that_tvm_lacks() -> None:
    unit = export(Unknown(), torch.randn(2, 4, 4), name="step")
    with pytest.raises(
        LoweringError,
        match=r"the model itself calls aten.*eigvalsh.*, which cannot be compiled: it has no compiled form",
    ):
        import_unit(unit, Kernels(ISA))
