"""Plain modules: what the frozen eager module computes when compiled; saving; what cannot be called."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from models import MLP, Classifier, Convolutions, Words
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import tbt_compile
from tbt_compile import CompiledModel, CompiledModule, FrozenModel
from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.errors import FormatError, GenerationError, InputError, LoweringError

Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """A frozen module, the compiled one, and inputs for any number of rows."""

    frozen: FrozenModel
    compiled: CompiledModule
    inputs: Callable[[int], Inputs]


INPUTS: dict[str, Callable[[int], Inputs]] = {
    "mlp": lambda rows: {"x": torch.randn(rows, 8)},
    "cnn": lambda rows: {"x": torch.randn(rows, 3, 12, 12)},
    "attention": lambda rows: {
        "x": torch.randn(rows, 5, 16),
        "mask": torch.arange(5) < 1 + torch.randint(5, (rows, 1)),
    },
    "words": lambda rows: {"ids": torch.randint(20, (rows, 4)), "features": torch.randn(rows, 16)},
}
MODULES = {"mlp": MLP, "cnn": Convolutions, "attention": Classifier, "words": Words}


def frozen_module(module: nn.Module, recipe: str, example_inputs: Any) -> FrozenModel:
    """A module whose scales, and statistics of batch norms, come from one batch."""
    tbt_compile.prepare(module, recipe, example_inputs)
    if isinstance(example_inputs, dict):
        module(**example_inputs)
    else:
        module(*example_inputs)
    return tbt_compile.freeze(module)


def lowered(model: FrozenModel) -> CompiledModule:
    compiled = tbt_compile.lower(model)
    assert isinstance(compiled, CompiledModule)
    return compiled


@pytest.fixture(scope="module", params=MODULES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    inputs = INPUTS[request.param]
    frozen = frozen_module(MODULES[request.param](), "2-2-2", inputs(3))
    return Case(frozen, lowered(frozen), inputs)


@pytest.fixture(scope="module")
def mlp() -> Case:
    frozen = frozen_module(MLP(), "1-1-8", (torch.randn(3, 8),))
    return Case(frozen, lowered(frozen), INPUTS["mlp"])


@pytest.fixture(scope="module")
def words() -> Case:
    inputs = INPUTS["words"]
    frozen = frozen_module(Words(), "1-1-1", {**inputs(3), "factor": 3.0})
    return Case(frozen, lowered(frozen), inputs)


def assert_equal(case: Case, rows: int) -> None:
    inputs = case.inputs(rows)
    expected = case.frozen(**inputs)
    got = case.compiled(**{name: value.numpy() for name, value in inputs.items()})
    named = expected if isinstance(expected, dict) else {"": expected}
    for name, value in named.items():
        array = got[name] if isinstance(got, dict) else got
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, value.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_result_is_that_of_the_frozen_module(case: Case, rows: int) -> None:
    assert_equal(case, rows)


def test_a_saved_module_comes_back_exactly(case: Case, tmp_path: Path) -> None:
    folder = case.compiled.save(tmp_path / "module")
    loaded = tbt_compile.load(folder)
    assert isinstance(loaded, CompiledModule)
    assert str(loaded) == str(case.compiled)
    inputs = {name: value.numpy() for name, value in case.inputs(4).items()}
    for one, other in zip(_arrays(loaded(**inputs)), _arrays(case.compiled(**inputs)), strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(FormatError, match="holds a compiled-module model: expected a compiled one"):
        CompiledModel.load(folder)


def _arrays(outputs: Any) -> list[np.ndarray[Any, Any]]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def test_integers_are_exact() -> None:
    """One layer on codes whose sums are integers: scales of one leave nothing to round."""
    frozen = frozen_module(nn.Sequential(nn.Linear(70, 33, bias=False)), "2-2-2", (torch.randn(4, 70),))
    layer = frozen.module[0]
    layer.weight_quantizer.scale.fill_(1.0)
    layer.input_quantizer.scale.fill_(1.0)
    x = torch.randn(9, 70)
    got = lowered(frozen)(x.numpy())
    assert np.array_equal(got, frozen(x).numpy())
    assert np.array_equal(got, np.round(got))


def test_a_frozen_folder_is_enough_to_lower(words: Case, tmp_path: Path) -> None:
    folder = words.frozen.save(tmp_path / "frozen")
    loaded = tbt_compile.load(folder, model=Words())
    compiled = lowered(loaded)
    assert compiled.description["inputs"] == words.compiled.description["inputs"]
    assert compiled.description["constants"] == {"factor": 3.0}
    inputs = {name: value.numpy() for name, value in words.inputs(5).items()}
    assert np.array_equal(compiled(**inputs)["scores"], words.compiled(**inputs)["scores"])


def test_a_transformers_model_that_does_not_generate() -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    torch.manual_seed(0)
    model = tbt_compile.prepare(BertForSequenceClassification(config).eval(), "2-2-2")
    ids, mask = torch.randint(50, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
    compiled = lowered(tbt_compile.freeze(model))
    got = compiled(ids, mask)
    assert list(got) == ["logits"]
    np.testing.assert_allclose(got["logits"], expected, rtol=1e-5, atol=1e-5)


class Several(nn.Module):
    """Inputs by position and an optional one; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, factor: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.layer(x) * factor
        return (y if shift is None else y + shift), x.mean(-1)


def test_several_outputs_and_a_number() -> None:
    x, factor = torch.randn(3, 4), torch.tensor(2.0)
    frozen = frozen_module(Several(), "2-2-2", (x, factor))
    got = lowered(frozen)(x, 2.0)
    assert isinstance(got, tuple)
    for array, expected in zip(got, frozen(x, factor), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


def test_a_fixed_batch() -> None:
    frozen = frozen_module(MLP(), "2-2-2", (torch.randn(1, 8),))
    compiled = lowered(frozen)
    x = torch.randn(1, 8)
    np.testing.assert_allclose(compiled(x), frozen(x), rtol=1e-5, atol=1e-5)
    told = r"x is float32 of shape \[2, 8\]: expected float32 \[1, 8\]. Numbers are set .*one row; give"
    with pytest.raises(InputError, match=told):
        compiled(np.zeros((2, 8), np.float32))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"Words\(ids, features\) is missing 'ids' and 'features'"),
        ((1, 2, 3), {}, r"Words\(ids, features\) got 3 positional arguments; fixed .*: 'factor' to 3.0"),
        ((1,), {"ids": 1, "features": 2}, "got 'ids' twice"),
        ((1,), {"feature": 2}, "has no argument 'feature'. Did you mean features"),
        ((1, 2), {"factor": 2.0}, "'factor' of .* was fixed to 3.0 when it was prepared: leave it out"),
        (([[1.0] * 4], np.zeros((1, 16))), {}, r"ids is float64 of shape \[1, 4\]: expected int64 \[1, 4\]"),
        (([[1] * 4] * 2, np.zeros((3, 16))), {}, r"features is .* \[3, 16\]: expected float32 \[2, 16\]"),
        (([[1] * 5], np.zeros((1, 16))), {}, r"ids is int64 of shape \[1, 5\]"),
        ((np.zeros((0, 4), int), np.zeros((0, 16))), {}, r"ids is int64 of shape \[0, 4\]: dimension 0 "),
        (([[1, 2, 3, 20]], np.zeros((1, 16))), {}, "ids holds 1 to 20: expected indices from 0 to 19"),
        (([[1], [2, 3]], np.zeros((1, 16))), {}, "ids is not an array"),
    ],
)
def test_inputs_that_do_not_fit(words: Case, args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        words.compiled(*args, **kwargs)


def test_constants_that_are_left_out_are_recorded_with_their_defaults() -> None:
    call = call_record.record(Words(), (), INPUTS["words"](2))
    assert call_record.defaults(call) == {"factor": 2.0}
    assert [argument["name"] for argument in call] == ["ids", "features", "factor"]


def test_plain_modules_do_not_generate(mlp: Case) -> None:
    with pytest.raises(GenerationError, match="MLP does not generate text: call it with its inputs"):
        mlp.compiled.generate([[1]])


WITHOUT_TORCH = """
import json, sys
sys.modules.update(torch=None, transformers=None)
import tbt_compile
print(json.dumps(tbt_compile.load(sys.argv[1])(json.load(sys.stdin)).tolist()))
"""


def test_running_needs_no_torch(mlp: Case, tmp_path: Path) -> None:
    folder, x = mlp.compiled.save(tmp_path / "mlp"), mlp.inputs(2)["x"].numpy()
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder)]
    done = subprocess.run(command, input=json.dumps(x.tolist()), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.array(json.loads(done.stdout), np.float32), mlp.compiled(x))


class Listed(MLP):
    def forward(self, parts: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat(parts, -1))


class Odd(MLP):
    def forward(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return {"all": {3: super().forward(x)}}


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (
            Listed(),
            ([torch.randn(3, 4)] * 2,),
            "argument 'parts' of Listed is a list: compiled modules take",
        ),
        (Odd(), (torch.randn(3, 8),), "Odd returns 'all' of type dict: compiled modules return tensors"),
    ],
)
def test_what_cannot_be_lowered(module: nn.Module, inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        tbt_compile.lower(frozen_module(module, "2-2-2", inputs))


def test_a_module_that_was_frozen_before_calls_were_recorded(mlp: Case) -> None:
    frozen = frozen_module(MLP(), "2-2-2", (torch.randn(3, 8),))
    del frozen.module.tbt_inputs
    with pytest.raises(LoweringError, match="MLP has no record of its inputs: prepare it with this release"):
        tbt_compile.lower(frozen)


class Branching(nn.Module):
    """Computes something else for some numbers of rows."""

    def __init__(self, special: Callable[[int], bool]) -> None:
        super().__init__()
        self.linear, self.special = nn.Linear(8, 4), special

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * 2 + 1 if self.special(x.shape[0]) else x)


@pytest.mark.parametrize(
    ("special", "rows", "least"),
    [(lambda n: n == 1, 3, 2), (lambda n: n % 2 == 0, 4, None), (lambda n: n > 4, 6, 5)],
    ids=["one", "even", "many"],
)
def test_a_branch_on_the_batch_bounds_or_fixes_it(
    special: Callable[[int], bool], rows: int, least: int | None
) -> None:
    exported = adapter_for(nn.Module()).export_units(
        frozen_module(Branching(special), "2-2-2", (torch.randn(rows, 8),)).module
    )
    (shape,) = [argument["shape"] for argument in exported.settings["inputs"]]
    assert shape == (["n0", 8] if least else [rows, 8])
    assert [bound["limit"] for bound in exported.settings["bounds"]] == ([least] if least else [])
