"""What a model can read: token ids of its vocabulary, and as many tokens as it has positions.

On more of them PyTorch fails in the middle of a training, or reads on with positions that were never learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tbt_compile.data.examples import RowDataset
from tbt_compile.errors import DataError

_POSITIONS = ("max_target_positions", "max_position_embeddings")


def positions_of(model: Any) -> int | None:
    """The positions of a transformers model's texts; None if they are relative and have no limit."""
    config = getattr(model, "config", None)
    sizes = (getattr(config, name, None) for name in _POSITIONS)
    size = next((int(size) for size in sizes if size), None)
    if size is None or not isinstance(model, nn.Module):
        return size
    # RoBERTa and its kin count positions from behind that of padding.
    tables = (table for name, table in model.named_modules() if name.endswith("position_embeddings"))
    reserved = [1 + table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None]
    return size - max(reserved, default=0)


def check_rows(model: Any, dataset: Any) -> None:
    """Refuse rows of token ids that a model cannot read.

    Args:
        model: a transformers model.
        dataset: of this package, or a list: rows with `input_ids` and `labels`, or one of them. Others are
            taken as they are: what they hold may be read once only.

    Raises:
        DataError: there is no row, one is longer than the model has positions, or has a token that is not in
            its vocabulary.
    """
    if not isinstance(dataset, RowDataset | list):
        return
    rows = dataset.rows if isinstance(dataset, RowDataset) else dataset
    if not rows:
        raise DataError("there are no examples: expected at least one to train on or to score")
    positions, vocabulary = positions_of(model), getattr(model.config, "vocab_size", None)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            return
        for name in ("input_ids", "labels"):
            if isinstance(ids := row.get(name), Sequence):
                # Each text of a packed row has positions of its own.
                length = max(row["position_ids"]) + 1 if "position_ids" in row else len(ids)
                _check(f"{name} of example {number}", (ids, length), positions, vocabulary)


def _check(what: str, text: tuple[Sequence[int], int], positions: int | None, vocabulary: int | None) -> None:
    ids, length = text
    if positions is not None and length > positions:
        raise DataError(
            f"{what} are {length} tokens, and the model has {positions} positions: give smaller lengths"
        )
    if vocabulary is not None and ids and max(ids) >= vocabulary:
        raise DataError(
            f"{what} hold token {max(ids)}, and the model's vocabulary has {vocabulary}: expected the "
            "tokenizer that belongs to the model; if tokens were added to it, call "
            "model.resize_token_embeddings(len(tokenizer)) before prepare"
        )
