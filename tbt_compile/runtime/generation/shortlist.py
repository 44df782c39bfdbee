"""Searches of a model whose logits are those of some tokens of its vocabulary alone."""

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
    """The tokens that a model can write.

    A search works with places in the shortlist instead of tokens. Other tokens that occur, in a prompt or in
    the source, have places behind it, where no logit is.

    Args:
        ids: int64 [n], ascending.
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
        """`search` with this model; arguments and result are tokens, as without a shortlist.

        Sequences of `bad_words_ids` and `sequence_bias` with a token outside the shortlist are left out.

        Raises:
            GenerationError: an end token or a forced one is not in the shortlist, or as in `search`.
        """
        source = (
            None if encoder_input_ids is None else as_token_matrix("encoder_input_ids", encoder_input_ids)
        )
        padding = np.array([] if settings.pad_token_id is None else [settings.pad_token_id], np.int64)
        others = [] if source is None else [source.reshape(-1)]
        mentioned = np.concatenate([prompt.reshape(-1), padding, *others])
        all_ids = np.concatenate([self.ids, np.unique(mentioned[~_is_among(mentioned, self.ids)])])

        def tell(places: Tokens) -> None:
            if on_tokens is not None:
                on_tokens(all_ids[places])

        written = search(
            _Session(session, all_ids),
            self._translated(settings, all_ids),
            _places(prompt, self.ids, all_ids),
            encoder_input_ids=None if source is None else _places(source, self.ids, all_ids),
            on_tokens=None if on_tokens is None else tell,
            **options,
        )
        return all_ids[written]

    def expand(self, logits: Scores, vocabulary: int) -> Scores:
        """Logits [rows, n] as those of the whole vocabulary, [rows, V]: minus infinity for other tokens."""
        whole = np.full((len(logits), vocabulary), -np.inf, np.float32)
        whole[:, self.ids] = logits
        return whole

    def _translated(self, settings: GenerationSettings, all_ids: Tokens) -> GenerationSettings:
        def known(tokens: tuple[int, ...]) -> bool:
            return bool(_is_among(np.array(tokens, np.int64), self.ids).all())

        def places(tokens: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(_places(np.array(tokens, np.int64), self.ids, all_ids).tolist())

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
                    "model was lowered with; lower it again with that token in it"
                )
        pad = settings.pad_token_id
        return dataclasses.replace(
            settings,
            eos_token_id=places(settings.eos_token_id),
            forced_bos_token_id=None if first is None else places((first,))[0],
            forced_eos_token_id=places(settings.forced_eos_token_id),
            pad_token_id=None if pad is None else places((pad,))[0],
            suppress_tokens=places(tuple(t for t in settings.suppress_tokens if known((t,)))),
            begin_suppress_tokens=places(tuple(t for t in settings.begin_suppress_tokens if known((t,)))),
            bad_words_ids=tuple(places(ids) for ids in settings.bad_words_ids if known(ids)),
            sequence_bias=tuple((places(ids), bias) for ids, bias in settings.sequence_bias if known(ids)),
        )


class _Session:
    """A session that takes places instead of tokens."""

    def __init__(self, session: DecoderSession, all_ids: Tokens) -> None:
        self._session, self._all_ids = session, all_ids

    def step(self, places: Tokens) -> Scores:
        return self._session.step(self._all_ids[places])

    def reorder(self, rows: Tokens) -> None:
        self._session.reorder(rows)


def _is_among(tokens: Tokens, ids: Tokens) -> NDArray[np.bool_]:
    """Which tokens are among the ids, which are ascending and many more than the tokens."""
    nearest = np.minimum(np.searchsorted(ids, tokens), len(ids) - 1)
    return ids[nearest] == tokens


def _places(tokens: Tokens, ids: Tokens, all_ids: Tokens) -> Tokens:
    """Where the tokens are in `all_ids`: the shortlist `ids`, then the others, each ascending."""
    others = len(ids) + np.searchsorted(all_ids[len(ids) :], tokens)
    return np.where(_is_among(tokens, ids), np.searchsorted(ids, tokens), others)
