"""Compiled text-generation models. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.library.threads import choose
from tbt_compile.errors import GenerationError
from tbt_compile.runtime import worker_threads
from tbt_compile.runtime.batching import BATCH_SIZE, BATCH_TOKENS, Batching, BatchProgress, run_batches
from tbt_compile.runtime.builds import Build
from tbt_compile.runtime.companions import Files
from tbt_compile.runtime.compiled_library import Array
from tbt_compile.runtime.generation import (
    GenerationSettings,
    Scores,
    Tokens,
    decoder_prompt,
    search,
)
from tbt_compile.runtime.generation.shortlist import Shortlist
from tbt_compile.runtime.generation.validation import count
from tbt_compile.runtime.input_checks import checked_sources
from tbt_compile.runtime.model_sessions import SessionModel
from tbt_compile.runtime.speech import OPTIONS, SpeechModel, transcribe
from tbt_compile.runtime.speech_settings import SpeechSettings
from tbt_compile.storage import model_folder

SHORTLIST = "shortlist"
"""Name of the tensor that holds a model's shortlist."""


class CompiledModel(SessionModel):
    """A text-generation model compiled to libraries, with its packed weights.

    Encoder-decoder models generate from a source; decoder-only models continue a prompt. Made by
    `tbt_compile.lower`, or loaded from a folder by `tbt_compile.load`. Attributes: see `SessionModel`.
    """

    KIND = model_folder.GENERATOR

    def __init__(
        self,
        builds: Sequence[Build],
        description: dict[str, Any],
        tensors: dict[str, Array],
        num_threads: int | None = None,
        files: Files | None = None,
    ) -> None:
        super().__init__(builds, description, tensors, num_threads, files)
        self._settings = GenerationSettings.from_dict(description["generation"])
        self._shortlist = Shortlist(tensors[SHORTLIST]) if SHORTLIST in tensors else None
        self._speech = SpeechSettings.recorded(description)

    @property
    def shortlist(self) -> Tokens | None:
        """The tokens that the model can generate, int64 [n] ascending; None: the whole vocabulary."""
        return None if self._shortlist is None else self._shortlist.ids.copy()

    def generate(
        self,
        input_ids: npt.ArrayLike | None = None,
        attention_mask: npt.ArrayLike | None = None,
        *,
        decoder_input_ids: npt.ArrayLike | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
        **settings: Any,
    ) -> Tokens:
        """Generate by greedy search, beam search or sampling, like transformers' `generate`.

        Tokens and padding are those of transformers; samples have its distribution, and are repeatable with a
        `seed`. Without `do_sample=True` nothing is sampled, whatever the model's config says. An interrupt
        (Ctrl-C) takes effect after the running step or encoder call; the model remains usable. Outside the
        main thread, the search and `on_tokens` run in a worker thread (see `worker_threads`).

        Args:
            input_ids: integers [B, S]: the sources, padded on the right, or the prompts of a decoder-only
                model, padded on the left.
            attention_mask: integers [B, S], 1 for tokens and 0 for padding. None attends to every token,
                but not to `pad_token_id` in the prompts of a decoder-only model, unless that also ends
                outputs: transformers infers the same.
            decoder_input_ids: encoder-decoder models only; integers [B, q], the start of every output. The
                default is the start token.
            on_tokens: not with beams; called after every step with the new tokens, int64 [B].
            settings: fields of `GenerationSettings` (num_beams, max_new_tokens, min_new_tokens,
                length_penalty, early_stopping, no_repeat_ngram_size, forced_bos_token_id, do_sample,
                temperature, top_k, top_p, min_p, seed, ...), which override the model's generation config.
                A model of images or audio takes its features here, by the name that its processor gives
                them, in place of input_ids: `pixel_values`, `input_features`, floats [B, ...]. A Whisper
                model also takes `language`, `task`, `return_timestamps`, `prompt_ids` and
                `attention_mask`, and any length (see `runtime.speech.transcribe`, which says what is
                returned).

        Returns:
            int64 [B * num_return_sequences, T], including the decoder's start token or the prompt; of Whisper
            the new tokens alone.

        Raises:
            GenerationError: an input or a setting does not fit.
            TargetError: the model was compiled for another machine.
        """
        if self._speech:
            return self._transcribed(self._speech, input_ids, attention_mask, settings)
        features = self._source.take(settings)
        chosen = self._chosen(settings)
        ids, mask = self._source.checked(input_ids, attention_mask, features, chosen)
        padding = None
        if self.is_encoder_decoder:
            prompt = decoder_prompt(chosen, len(ids), decoder_input_ids)
        elif decoder_input_ids is None:
            prompt, padding = ids, mask.argmax(axis=1)
        else:
            raise GenerationError(
                f"decoder_input_ids: {self.description['class']} has no encoder, and its prompt is input_ids"
            )
        attended = int(mask.sum(axis=1).max())
        if self.is_encoder_decoder:
            attended = prompt.shape[1]
            self._limits.check_decoder(prompt, attended, attended)
        self._check_output(chosen, prompt.shape[1], attended)
        return worker_threads.run(
            lambda: self._search(
                self._open(ids, mask),
                chosen,
                prompt,
                encoder_input_ids=None if input_ids is None else ids[:, : np.asarray(input_ids).shape[1]],
                padding=padding,
                on_tokens=on_tokens,
            )
        )

    def generate_many(
        self,
        sources: Iterable[Any],
        *,
        batch_size: int = BATCH_SIZE,
        batch_tokens: int = BATCH_TOKENS,
        num_workers: int = 1,
        num_threads: int | None = None,
        progress: BatchProgress | None = None,
        **settings: Any,
    ) -> list[Tokens]:
        """Generate for any number of sources, in batches of similar length, several in parallel.

        Prompts of a decoder-only model are batched with prompts of the same length. The output for a source
        depends only on the source and the settings. An interrupt (Ctrl-C) takes effect at once; the model
        remains usable.

        Args:
            sources: lists of token ids, or rows with `input_ids` and, if padded on the right,
                `attention_mask`, such as those of a tokenized `datasets.Dataset`.
            batch_size: maximum number of sources in a batch.
            batch_tokens: maximum number of source tokens in a batch, padding included; a longer source is a
                batch by itself.
            num_workers: number of batches that run in parallel, one thread each; they share the weights.
            num_threads: threads per batch (default: those of the model, divided among the workers).
            progress: called after every batch with the number of sources done and the number of all.
            settings: as in `generate`.

        Returns:
            num_return_sequences outputs per source, in the order of the sources, int64 [T] each: the
            decoder's start token or the prompt, the new tokens, and the end token if one was reached.

        Raises:
            GenerationError: a source or a setting does not fit, before anything is generated.
            TargetError: the model was compiled for another machine.
        """
        if self._source.features:
            raise GenerationError(
                f"generate_many takes token ids, and this model {self._source.features.name}: use generate"
            )
        chosen = self._chosen(settings)
        num_workers = count("num_workers", num_workers)
        rows = checked_sources(sources, self._limits.source)
        for prompt in {1 if self.is_encoder_decoder else len(row) for row in rows}:
            self._check_output(chosen, prompt, prompt)
        share = max(1, choose(self.num_threads) // num_workers)
        threads = share if num_threads is None else count("num_threads", num_threads)
        return run_batches(
            lambda ids, mask: self._open(*self._source.padded(ids, mask), threads),
            chosen,
            rows,
            Batching(count("batch_size", batch_size), count("batch_tokens", batch_tokens), num_workers),
            progress=progress,
            prompts=not self.is_encoder_decoder,
            run_search=self._search,
        )

    def whole_logits(self, logits: Scores) -> Scores:
        """Expand the logits of a session's step, [rows, n], to the whole vocabulary, [rows, V]."""
        if self._shortlist is None:
            return logits
        return self._shortlist.expand(logits, self.description["vocabulary"])

    def __call__(self, *_args: Any, **_inputs: Any) -> NoReturn:
        """Refuse the call: a text generator has `generate` instead.

        Raises:
            GenerationError: always.
        """
        raise GenerationError(
            f"{self.description['class']} was compiled to generate text: use generate(input_ids), or session "
            "for logits step by step"
        )

    def _chosen(self, settings: dict[str, Any]) -> GenerationSettings:
        """The settings of a call; one that samples does so as the model's config says."""
        recorded = self.description["sampling"] if settings.get("do_sample") else {}
        return self._settings.replace(**{**recorded, **settings})

    def _check_output(self, settings: GenerationSettings, prompt: int, attended: int) -> None:
        """Refuse outputs that could exceed the model's positions, or have no room for a new token."""
        self._limits.check_output(prompt, attended, settings.lengths(prompt).maximum)

    def _search(self, *arguments: Any, **options: Any) -> Tokens:
        """Run `generation.search` with this model's compiled ranking and shortlist."""
        from tbt_compile.runtime.compiled_ranking import CompiledRanking

        options["ranking"] = CompiledRanking(self._bound())
        if self._shortlist is None:
            return search(*arguments, **options)
        return self._shortlist.search(search, *arguments, **options)

    def _transcribed(
        self, speech: SpeechSettings, input_ids: Any, attention_mask: Any, given: dict[str, Any]
    ) -> Tokens:
        """Generate from speech; the arguments are those of `generate`."""
        audio, frames = self._source.audio(input_ids, attention_mask, given)
        options = {name: given.pop(name) for name in OPTIONS if name in given}
        options["vocabulary"] = self.description["vocabulary"]
        settings, model = self._settings.replace(**given), self._speech_model()
        return worker_threads.run(lambda: transcribe(model, speech, audio, frames, settings, **options))

    def _speech_model(self) -> SpeechModel:
        return SpeechModel(lambda windows: self._open(windows, self._source.mask(windows)), self._search)
