"""Checks of model inputs: kernels do not check indices, and read out of bounds if one is out of range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation import Tokens
from tbt_compile.size_bounds import SizeBound, broken


class Excess(NamedTuple):
    """A row that is too long: its tokens, the model's positions, and what is counted besides tokens."""

    tokens: int
    positions: int
    counting: str = ""


@dataclass(frozen=True)
class TokenLimits:
    """Limits of the token ids on one side of a model.

    Attributes:
        vocabulary: number of tokens.
        length: maximum number of tokens in a row, padding included, or None.
        positions: maximum number of attended tokens in a row, or None.
    """

    vocabulary: int
    length: int | None = None
    positions: int | None = None

    def excess(self, length: int, attended: int) -> Excess | None:
        """Return by how much a row is too long, None if it fits; `attended` of its tokens are no padding."""
        if self.positions is not None and attended > self.positions:
            return Excess(attended, self.positions)
        if self.length is not None and length > self.length:
            return Excess(length, self.length, " with padding" if length > attended else "")
        return None


@dataclass(frozen=True)
class Limits:
    """Limits of a text-generation model.

    Attributes:
        layers: number of decoder layers, with a cache of keys and one of values each.
        source: limits of `input_ids`.
        decoder: limits of decoder tokens; in a decoder-only model the same.
        width: of the encoder's output; None without an encoder.
        bounds: by function, what the branches of the forward require of the sizes of its calls.
        block: the tokens of which a source has a multiple; the encoder takes [B, S / block, block].
    """

    layers: int
    source: TokenLimits
    decoder: TokenLimits
    width: int | None = None
    bounds: Mapping[str, Sequence[SizeBound]] = field(default_factory=dict)
    block: int = 1

    @classmethod
    def recorded(cls, description: Mapping[str, Any]) -> Limits:
        """Read the limits from a manifest."""
        limits = description["limits"]
        source, decoder = (TokenLimits(**limits[side]) for side in ("source", "decoder"))
        bounds = {
            name: [SizeBound(**bound) for bound in function] for name, function in limits["bounds"].items()
        }
        return cls(description["layers"], source, decoder, limits["width"], bounds, limits.get("block", 1))

    def check_sizes(self, function: str, **sizes: int) -> None:
        """Check the sizes of a call of a function against its bounds.

        Args:
            function: name of the function.
            sizes: "rows", "source" and "tokens", as far as the function has them.

        Raises:
            GenerationError: the forward would take another branch than the one that was compiled.
        """
        bound = broken(self.bounds.get(function, ()), sizes)
        if bound is None:
            return
        count = sizes[bound.size]
        if bound.size == "rows":
            given, advice = f"a batch of {count} rows (beams included)", "change the batch or num_beams"
        elif bound.size == "source":
            given, advice = f"a source of {count} tokens", "truncate, split or pad it"
        elif function == "step":
            given, advice = f"a sequence of {count} tokens", "change max_new_tokens or max_length"
        else:
            given, advice = f"a prompt of {count} tokens", "truncate, split or pad it"
        raise GenerationError(f"{given}: {bound.demand()}; {advice}")

    def allows(self, function: str, **sizes: int) -> bool:
        """Whether a call of a function may have these sizes.

        Args:
            function: name of the function.
            sizes: by the names in its bounds.
        """
        return broken(self.bounds.get(function, ()), sizes) is None

    def more_padding(self, length: int) -> int:
        """Columns of padding that a source needs to have a length that is not excluded."""
        bounds = [
            bound
            for function in self.bounds.values()
            for bound in function
            if bound.size == "source" and not bound.one_sided
        ]
        more = -length % self.block
        while broken(bounds, {"source": length + more}):
            more += self.block
        return more

    def check_length(self, length: int, attended: int) -> None:
        """Check the length of decoder rows.

        Args:
            length: of every row, padding included.
            attended: most tokens of a row that are not padding.

        Raises:
            GenerationError: a row would exceed the model's positions.
        """
        excess = self.decoder.excess(length, attended)
        if excess is not None:
            raise GenerationError(
                f"{excess.tokens} decoder tokens{excess.counting} are more than the model's "
                f"{excess.positions} positions: lower max_new_tokens or max_length"
            )

    def check_output(self, prompt: int, attended: int, longest: int) -> None:
        """Check the length that outputs may reach, before they are begun.

        Args:
            prompt: tokens of every row before the new ones, padding included.
            attended: most of a row that are not padding.
            longest: length of the longest output, prompt included; its last token is not read again.

        Raises:
            GenerationError: an output could exceed the model's positions, or would come to a length at which
                the forward takes another branch.
        """
        self.check_length(longest - 1, attended + longest - 1 - prompt)
        self.check_steps(prompt, longest - 1)

    def check_steps(self, before: int, length: int, **sizes: int) -> None:
        """Check the sizes of the steps that take rows of `before` tokens to `length`.

        Args:
            before: tokens of every row, padding included.
            length: tokens after the last step.
            sizes: the others, as for `check_sizes`.

        Raises:
            GenerationError: the forward would take another branch in one of them.
        """
        if self.bounds.get("step"):
            for tokens in range(before + 1, length + 1):
                self.check_sizes("step", **sizes, tokens=tokens)

    def check_decoder(self, tokens: npt.NDArray[np.int64], length: int, attended: int) -> None:
        """Check decoder tokens before they are appended.

        Args:
            tokens: int64 [rows, q].
            length: length of every row with them, padding included.
            attended: most tokens of a row that are not padding.

        Raises:
            GenerationError: a row would exceed the model's positions, or a token is outside the vocabulary.
        """
        self.check_length(length, attended)
        listed = tokens.ravel().tolist()  # faster than two NumPy reductions on one token per row
        least, most = min(listed), max(listed)
        if least < 0 or most >= self.decoder.vocabulary:
            raise GenerationError(
                f"decoder token {least if least < 0 else most}: expected ids from 0 to "
                f"{self.decoder.vocabulary - 1} in decoder_input_ids, forced tokens and pad_token_id"
            )


def checked_batch(
    input_ids: npt.ArrayLike,
    attention_mask: npt.ArrayLike | None,
    limits: TokenLimits,
    padding: str = "right",
    pad_token: int | None = None,
) -> tuple[Tokens, Tokens]:
    """Check source ids and their mask.

    Args:
        input_ids: integers [B, S].
        attention_mask: integers [B, S], 1 for tokens and 0 for padding; None to mask `pad_token`.
        limits: of the sources.
        padding: the padded side: "right", or "left" for the prompts of a decoder-only model, whose new
            tokens follow the last column.
        pad_token: the token that is padding where there is no mask; None if every token is attended.

    Returns:
        Ids and mask, int64 [B, S] each.

    Raises:
        GenerationError: an argument has the wrong shape, dtype, values or padding.
    """
    try:
        ids = np.asarray(input_ids)
        mask = ids != pad_token if attention_mask is None else np.asarray(attention_mask)
    except ValueError as error:
        raise GenerationError(
            f"input_ids or attention_mask is not an array ({error}): pad shorter sources on the {padding}"
        ) from error
    if ids.ndim == 2 and ids.size == 0:
        raise GenerationError(
            f"input_ids has shape {list(ids.shape)}: expected at least one row, and a token in every row"
        )
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise GenerationError(
            f"input_ids has shape {list(ids.shape)} and type {ids.dtype}: expected integers "
            "[batch, length], both at least 1"
        )
    attended = _attended(mask, ids)
    if ids.min() < 0 or ids.max() >= limits.vocabulary:
        raise GenerationError(
            f"input_ids holds {ids.min()} to {ids.max()}: expected ids from 0 to {limits.vocabulary - 1}"
        )
    masker = "input_ids without attention_mask" if attention_mask is None else "attention_mask"
    text = "prompt" if padding == "left" else "source"
    excess = limits.excess(ids.shape[1], int(attended.sum(axis=1).max()))
    if excess is not None:
        raise GenerationError(
            f"the {text} has {excess.tokens} tokens{excess.counting}, and the model has {excess.positions} "
            "positions: truncate or split it"
        )
    if not attended.any(axis=1).all():
        raise GenerationError(f"{masker} masks every token of a {text}: expected a 1 in every row")
    if padding == "left" and not attended[:, -1].all():
        raise GenerationError(
            f"{masker} ends with padding, and new tokens follow the last column: pad shorter prompts on "
            "the left"
        )
    return ids.astype(np.int64), mask.astype(np.int64)


def _attended(mask: npt.NDArray[Any], ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """A mask of tokens, bool of the shape of `ids`.

    Raises:
        GenerationError: it has another shape, or other values than 0 and 1.
    """
    if mask.shape != ids.shape:
        raise GenerationError(
            f"attention_mask has shape {list(mask.shape)}: expected that of input_ids, {list(ids.shape)}"
        )
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise GenerationError(
            "attention_mask holds other values than 0 and 1: expected 1 for tokens and 0 for padding"
        )
    return mask.astype(bool)


def checked_sources(sources: Iterable[Any], limits: TokenLimits) -> list[Tokens]:
    """Check sources and strip their padding.

    Args:
        sources: token ids, or mappings with `input_ids` and optionally `attention_mask`.
        limits: of the sources.

    Returns:
        Token ids of every source, int64 [S].

    Raises:
        GenerationError: a source does not fit; names the first one.
    """
    rows = []
    for number, source in enumerate(sources):
        try:
            ids, _ = checked_batch(np.asarray(_token_ids(source))[None], None, limits)
            rows.append(ids[0])
        except ValueError as error:  # NumPy raises it for ragged lists
            raise GenerationError(f"source {number}: {error}") from error
    return rows


def _token_ids(source: Any) -> Any:
    if not isinstance(source, Mapping):
        return source
    if "input_ids" not in source:
        raise GenerationError(f"expected input_ids, got the fields {', '.join(map(str, source))}")
    ids, mask = np.asarray(source["input_ids"]), source.get("attention_mask")
    if mask is None or ids.ndim != 1:
        return ids
    attended = _attended(np.asarray(mask), ids)
    length = int(attended.sum())
    if not attended[:length].all():
        raise GenerationError("attention_mask has a 0 before a 1: expected padding on the right only")
    return ids[:length]
