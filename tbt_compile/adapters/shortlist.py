"""Output projections restricted to a shortlist of the vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from tbt_compile.errors import LoweringError
from tbt_compile.modules.frozen import FrozenWeight

_SPECIAL = ("eos_token_id", "bos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id")


def shortlist_of(module: nn.Module, tokens: Sequence[int]) -> npt.NDArray[np.int64]:
    """Sort the tokens and add the special tokens in the model's generation config.

    Args:
        module: a frozen model that generates text.
        tokens: token ids.

    Returns:
        Token ids, int64 [n], ascending and unique.

    Raises:
        LoweringError: the module has no vocabulary, `tokens` is empty, or one is outside the vocabulary.
    """
    if not isinstance(module, PreTrainedModel) or module.get_output_embeddings() is None:
        raise LoweringError(f"shortlist: {type(module).__name__} does not generate text")
    ids = np.unique(np.asarray(tokens))
    size = int(module.config.vocab_size)
    if not ids.size or not np.issubdtype(ids.dtype, np.integer) or ids[0] < 0 or ids[-1] >= size:
        raise LoweringError(
            f"shortlist: expected token ids from 0 to {size - 1}, at least one, as integers; got "
            + (f"{ids.dtype} from {ids[0]} to {ids[-1]}" if ids.size else "none")
        )
    return np.union1d(ids.astype(np.int64), _special(module.generation_config))


@contextmanager
def shortened(module: nn.Module, ids: npt.NDArray[np.int64] | None) -> Iterator[None]:
    """Restrict the model's logits to the given tokens, in their order, inside the context; None: to all."""
    if ids is None:
        yield
        return
    assert isinstance(module, PreTrainedModel)
    rows = torch.from_numpy(ids)
    head = module.get_output_embeddings()
    bias = getattr(module, "final_logits_bias", None)
    module.set_output_embeddings(_rows_of(head, rows))
    if bias is not None:
        module.final_logits_bias = bias[:, rows]
    try:
        yield
    finally:
        module.set_output_embeddings(head)
        if bias is not None:
            module.final_logits_bias = bias


def _rows_of(head: Any, rows: Tensor) -> Any:
    short = copy.copy(head)
    short._modules, short._parameters = dict(head._modules), dict(head._parameters)
    weight = short._modules.get("weight_quantizer")
    if isinstance(weight, FrozenWeight):
        short.weight_quantizer = FrozenWeight(
            weight.packed[rows], weight.scale[rows], weight.encoding, weight.columns
        )
    else:
        short.weight = nn.Parameter(head.weight[rows], requires_grad=False)
    if head.bias is not None:
        short.bias = nn.Parameter(head.bias[rows], requires_grad=False)
    short.out_features = len(rows)
    return short


def _special(config: GenerationConfig | None) -> npt.NDArray[np.int64]:
    found: list[int] = []
    for name in _SPECIAL:
        value = getattr(config, name, None)
        found += [] if value is None else [value] if isinstance(value, int) else list(value)
    return np.array(found, np.int64)
