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
from transformers import PreTrainedModel

from tbt_compile.adapters.decode_settings import generation_settings
from tbt_compile.errors import LoweringError
from tbt_compile.modules.frozen import FrozenWeight


def shortlist_of(module: nn.Module, tokens: Sequence[int]) -> npt.NDArray[np.int64]:
    """Sort the tokens and add the special tokens in the model's generation config.

    Args:
        module: a frozen model that generates text.
        tokens: token ids.

    Returns:
        Token ids, int64 [n], ascending and unique.

    Raises:
        LoweringError: the module has no vocabulary, `tokens` is empty, or one is outside the vocabulary; or
            as for `generation_settings`.
    """
    if not isinstance(module, PreTrainedModel) or module.get_output_embeddings() is None:
        raise LoweringError(f"shortlist: {type(module).__name__} does not generate text")
    ids = np.unique(np.asarray(tokens))
    size = int(module.get_output_embeddings().out_features)
    if not ids.size or not np.issubdtype(ids.dtype, np.integer) or ids[0] < 0 or ids[-1] >= size:
        raise LoweringError(
            f"shortlist: expected token ids from 0 to {size - 1}, at least one, as integers; got "
            + (f"{ids.dtype} from {ids[0]} to {ids[-1]}" if ids.size else "none")
        )
    settings, _ = generation_settings(module)
    single = (settings.bos_token_id, settings.pad_token_id, settings.forced_bos_token_id)
    several = (*settings.eos_token_id, *settings.forced_eos_token_id)
    special = [token for token in (*single, *several) if token is not None and token < size]
    return np.union1d(ids.astype(np.int64), np.array(special, np.int64))


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
