"""Search with a model whose logits cover only a shortlist of its vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation.prompt import as_token_matrix
from tbt_compile.runtime.generation.session import DecoderSession, Scores, Tokens
from tbt_compile.runtime.generation.settings import GenerationSettings

Search = Callable[..., Tokens]


class Shortlist:
    """The tokens that a model can generate.

    A search runs on indices into the shortlist instead of tokens. Other tokens, which may occur in a prompt
    or source, get indices after the shortlist, for which there are no logits.

    Args:
        ids: token ids, int64 [n], ascending.
    """

    def __init__(self, ids: Tokens) -> None:
        self.ids = ids

    def search(
        self,
        search: Search,
        session: DecoderSession,
        settings: GenerationSettings,
        prompt: Tokens,
        *,
        encoder_input_ids: ArrayLike | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
        **options: Any,
    ) -> Tokens:
        """Run a search on this shortlist; takes and returns tokens, as without a shortlist.

        Sequences of `bad_words_ids` and `sequence_bias` with a token outside the shortlist are ignored.

        Args:
            search: `generation.search`, or a function with its arguments.
            session: returns logits [rows, n] of the shortlist.
            settings: as for `search`.
            prompt: as for `search`.
            encoder_input_ids: as for `search`.
            on_tokens: as for `search`.
            options: further arguments of `search`.

        Returns:
            As for `search`.

        Raises:
            GenerationError: an end token or forced token is not in the shortlist, or `search` raises it.
        """
        source = (
            None if encoder_input_ids is None else as_token_matrix("encoder_input_ids", encoder_input_ids)
        )
        padding = np.array([] if settings.pad_token_id is None else [settings.pad_token_id], np.int64)
        others = [] if source is None else [source.reshape(-1)]
        mentioned = np.concatenate([prompt.reshape(-1), padding, *others])
        all_ids = np.concatenate([self.ids, np.unique(mentioned[~_is_among(mentioned, self.ids)])])

        def report(indices: Tokens) -> None:
            if on_tokens is not None:
                on_tokens(all_ids[indices])

        generated = search(
            _Session(session, all_ids),
            self._translated(settings, all_ids),
            _indices(prompt, self.ids, all_ids),
            encoder_input_ids=None if source is None else _indices(source, self.ids, all_ids),
            on_tokens=None if on_tokens is None else report,
            **options,
        )
        return all_ids[generated]

    def expand(self, logits: Scores, vocabulary: int) -> Scores:
        """Expand logits [rows, n] to the whole vocabulary, [rows, V], with -inf for all other tokens."""
        whole = np.full((len(logits), vocabulary), -np.inf, np.float32)
        whole[:, self.ids] = logits
        return whole

    def _translated(self, settings: GenerationSettings, all_ids: Tokens) -> GenerationSettings:
        def known(tokens: tuple[int, ...]) -> bool:
            return bool(_is_among(np.array(tokens, np.int64), self.ids).all())

        def indices(tokens: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(_indices(np.array(tokens, np.int64), self.ids, all_ids).tolist())

        first = settings.forced_bos_token_id
        needed = {
            "eos_token_id": settings.eos_token_id,
            "forced_bos_token_id": () if first is None else (first,),
            "forced_eos_token_id": settings.forced_eos_token_id,
        }
        for name, tokens in needed.items():
            if not known(tokens):
                outside = sorted(set(tokens) - set(self.ids.tolist()))[0]
                raise GenerationError(
                    f"{name}: token {outside} is not in the shortlist of {len(self.ids)} tokens that the "
                    "model was lowered with; add it to the shortlist and lower the model again"
                )
        pad = settings.pad_token_id
        return dataclasses.replace(
            settings,
            eos_token_id=indices(settings.eos_token_id),
            forced_bos_token_id=None if first is None else indices((first,))[0],
            forced_eos_token_id=indices(settings.forced_eos_token_id),
            pad_token_id=None if pad is None else indices((pad,))[0],
            suppress_tokens=indices(tuple(t for t in settings.suppress_tokens if known((t,)))),
            begin_suppress_tokens=indices(tuple(t for t in settings.begin_suppress_tokens if known((t,)))),
            bad_words_ids=tuple(indices(ids) for ids in settings.bad_words_ids if known(ids)),
            sequence_bias=tuple((indices(ids), bias) for ids, bias in settings.sequence_bias if known(ids)),
        )


class _Session:
    """Wraps a session to take indices instead of tokens."""

    def __init__(self, session: DecoderSession, all_ids: Tokens) -> None:
        self._session, self._all_ids = session, all_ids

    def step(self, indices: Tokens) -> Scores:
        return self._session.step(self._all_ids[indices])

    def reorder(self, rows: Tokens) -> None:
        self._session.reorder(rows)


def _is_among(tokens: Tokens, ids: Tokens) -> NDArray[np.bool_]:
    """Return which tokens are among the ids, by binary search: ids are ascending, and many."""
    nearest = np.minimum(np.searchsorted(ids, tokens), len(ids) - 1)
    return ids[nearest] == tokens


def _indices(tokens: Tokens, ids: Tokens, all_ids: Tokens) -> Tokens:
    """Return the indices of tokens in `all_ids`: the shortlist `ids`, then the others, each ascending."""
    others = len(ids) + np.searchsorted(all_ids[len(ids) :], tokens)
    return np.where(_is_among(tokens, ids), np.searchsorted(ids, tokens), others)
