"""Modules whose products are calls of functions, compiled."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F
from call_models import IDS, KEPT, Block, X, exported_bert, multihead
from torch import Tensor, fx, nn

import tbt_compile
from tbt_compile.errors import InputError


def test_a_graph_compiles() -> None:
    model = tbt_compile.prepare(fx.symbolic_trace(Block()), "2-2-2", X)
    model(X)
    frozen = tbt_compile.freeze(model)
    expected = frozen(X).numpy()
    np.testing.assert_allclose(tbt_compile.lower(frozen)(X.numpy()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_an_exported_program_compiles_with_the_sizes_that_it_has() -> None:
    model, inputs = exported_bert(), (IDS, (IDS > 2).long())
    tbt_compile.prepare(model, "2-2-2", inputs)
    model(*inputs)
    frozen = tbt_compile.freeze(model)
    (expected,) = frozen(*inputs).values()
    compiled, arrays = tbt_compile.lower(frozen), [x.numpy() for x in inputs]
    (result,) = compiled(*arrays).values()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="3"):
        compiled(*(x[:2] for x in arrays))


def test_an_encoder_of_pytorch_compiles() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, activation=F.mish, batch_first=True)
    inputs = {"src": X, "src_key_padding_mask": ~KEPT}
    model = tbt_compile.prepare(layer.eval(), "2-2-2", inputs)
    model(**inputs)
    frozen = tbt_compile.freeze(model)
    expected = frozen(**inputs).numpy()
    compiled = tbt_compile.lower(frozen)
    result = compiled(**{name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


class Masked(nn.Module):
    """A decoder that makes its own causal mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(16, 2, 24, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 1)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.decoder(target, memory, tgt_mask=mask)


def test_a_decoder_of_pytorch_with_its_own_mask_compiles() -> None:
    inputs = (X[:, :3], X)
    model = tbt_compile.prepare(Masked().eval(), "2-2-2", inputs)
    model(*inputs)
    frozen = tbt_compile.freeze(model)
    result = tbt_compile.lower(frozen)(*(value.numpy() for value in inputs))
    np.testing.assert_allclose(result, frozen(*inputs), rtol=1e-5, atol=1e-6)


def test_attention_on_one_tensor_compiles_with_one_input() -> None:
    model = tbt_compile.prepare(multihead(batch_first=True).eval(), "2-2-2", (X, X, X))
    model(X, X, X)
    frozen = tbt_compile.freeze(model)
    compiled, x = tbt_compile.lower(frozen), X.numpy()
    assert [argument["name"] for argument in compiled.description["inputs"]] == ["query"]
    for result in (compiled(x), compiled(x, x, x)):
        np.testing.assert_allclose(result[0], frozen(X, X, X)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="'value' of .* was the same tensor as 'query'"):
        compiled(x, value=x + 1)


@pytest.mark.parametrize("with_kwargs", [False, True])
def test_hooks_of_the_whole_module_are_compiled_with_it(with_kwargs: bool) -> None:
    module = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 8))
    if with_kwargs:
        module.register_forward_pre_hook(lambda _, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True)
    else:
        module.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
        module.register_forward_hook(lambda _, args, result: result + args[0][..., :8])
    model = tbt_compile.prepare(module, "2-2-2", X)
    model(X)
    frozen = tbt_compile.freeze(model)
    np.testing.assert_array_equal(tbt_compile.lower(frozen)(X.numpy()), frozen(X).numpy())
