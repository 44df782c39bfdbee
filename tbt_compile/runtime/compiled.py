"""Compiled models: generate, save and load. Needs neither torch nor transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tbt_compile import storage
from tbt_compile.codegen.host import check_runnable
from tbt_compile.codegen.target import TargetSpec
from tbt_compile.errors import GenerationError
from tbt_compile.recipe import Recipe
from tbt_compile.runtime.generation import GenerationSettings, generate
from tbt_compile.tensor_files import map_file

if TYPE_CHECKING:
    from mmap import mmap

    from tbt_compile.runtime.machine import Machine
    from tbt_compile.runtime.seq2seq import Seq2SeqSession

LIBRARY = "model.so"
Array = npt.NDArray[Any]


class CompiledModel:
    """An encoder-decoder model as a library for one CPU, with its packed weights.

    Made by `tbt_compile.lower`, or read from a folder by `CompiledModel.load`.

    Attributes:
        description: the manifest: recipe, target, kernels, versions, settings of the decode engine.
        target: what it was compiled for.
        recipe: what it was quantized with.
    """

    def __init__(
        self,
        library: Any,
        description: dict[str, Any],
        tensors: dict[str, Array],
        num_threads: int | None = None,
    ) -> None:
        self.description = description
        self.target = TargetSpec.recorded(description["target"], description["features"])
        self.recipe = Recipe.from_dict(description["recipe"])
        self.num_threads = num_threads
        self._library = library
        self._linked: mmap | None = None
        self._tensors = tensors
        self._machine: Machine | None = None
        self._settings = GenerationSettings.from_dict(description["generation"])

    @property
    def kernels(self) -> list[str]:
        """Names of the bit-serial and vector kernels in the library."""
        return list(self.description["kernels"])

    def generate(
        self,
        input_ids: npt.ArrayLike,
        attention_mask: npt.ArrayLike | None = None,
        *,
        decoder_input_ids: npt.ArrayLike | None = None,
        on_tokens: Callable[[npt.NDArray[np.int64]], None] | None = None,
        **settings: Any,
    ) -> npt.NDArray[np.int64]:
        """Greedy or beam search; the same tokens and padding as transformers' `generate(do_sample=False)`.

        Args:
            input_ids: integers [B, S], shorter sources padded on the right.
            attention_mask: 1 for tokens and 0 for padding, [B, S]; by default everything is attended to.
            decoder_input_ids: integers [B, q] that every output begins with; by default the start token.
            on_tokens: greedy search only; called after every step with the new tokens, int64 [B].
            settings: fields of `GenerationSettings` (num_beams, max_new_tokens, min_new_tokens,
                length_penalty, early_stopping, no_repeat_ngram_size, forced_bos_token_id, ...), which
                override the model's own generation config.

        Returns:
            int64 [B * num_return_sequences, T], the decoder's start token included.

        Raises:
            GenerationError: an input or a setting does not fit.
            TargetError: the model was compiled for another machine.
        """
        ids, mask = self._check_source(input_ids, attention_mask)
        return generate(
            self._open(ids, mask),
            self._settings.replace(**settings),
            len(ids),
            decoder_input_ids=decoder_input_ids,
            encoder_input_ids=ids,
            on_tokens=on_tokens,
        )

    def session(
        self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None = None
    ) -> Seq2SeqSession:
        """Encode a batch and return a `DecoderSession`, for a search of one's own.

        Arguments and errors are those of `generate`.
        """
        return self._open(*self._check_source(input_ids, attention_mask))

    def _open(
        self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]
    ) -> Seq2SeqSession:
        from tbt_compile.runtime.seq2seq import DecoderLimits, Seq2SeqSession
        from tbt_compile.runtime.tvm_runtime import set_threads

        machine = self._ready()
        set_threads(self.num_threads)
        limits = DecoderLimits(
            self.description["layers"], self.description["vocabulary"], self.description["max_positions"]
        )
        return Seq2SeqSession(machine, limits, input_ids, attention_mask)

    def save(self, path: str | Path, tokenizer: Any = None) -> Path:
        """Write library, packed weights and manifest to a folder that runs on the target.

        A loaded model does not need its folder any more: it may have been moved, replaced or deleted.

        Args:
            path: the folder; one that holds a saved model is replaced.
            tokenizer: a transformers tokenizer to store with it.

        Raises:
            FormatError: something else than a model folder is in the way.
            TargetError: there is no linker for the target's architecture.
        """
        from tbt_compile.codegen.link import export_library

        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            if self._linked is not None:
                (folder / LIBRARY).write_bytes(self._linked)
            else:
                export_library(self._library, folder / LIBRARY, self.target)
            files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
            return storage.write_folder(path, "compiled", self.description, self._tensors, files)

    @classmethod
    def load(cls, path: str | Path, num_threads: int | None = None) -> CompiledModel:
        """Read a compiled folder.

        Raises:
            FormatError: the folder is missing, truncated or altered.
            TargetError: it was compiled for a CPU with features that this machine lacks.
        """
        path = Path(path)
        manifest = storage.read_manifest(path, "compiled")
        check_runnable(TargetSpec.recorded(manifest["target"], manifest["features"]))
        model = cls(path / LIBRARY, manifest, storage.read_tensors(path, manifest), num_threads)
        model._linked = map_file(path / LIBRARY)
        model._ready()
        return model

    def __str__(self) -> str:
        name = self.description["class"]
        return f"{name} at {self.recipe}, compiled for {self.target.mcpu} ({self.target.arch})"

    def _ready(self) -> Machine:
        """The machine, made at first use; a model compiled for another machine never gets that far."""
        if self._machine is None:
            from tbt_compile.runtime.machine import Machine

            check_runnable(self.target)
            self._machine = Machine(
                self._library, self.description["functions"], self.description["outputs"], self._tensors
            )
        return self._machine

    def _check_source(
        self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Source ids and mask as int64 [B, S]; an index out of range would read beyond a table."""
        try:
            ids = np.asarray(input_ids)
            mask = np.ones(ids.shape, np.int64) if attention_mask is None else np.asarray(attention_mask)
        except ValueError as error:
            raise GenerationError(
                f"input_ids or attention_mask is no array ({error}): pad shorter sources on the right"
            ) from error
        if ids.ndim != 2 or 0 in ids.shape or ids.dtype.kind not in "iu":
            raise GenerationError(
                f"input_ids has shape {list(ids.shape)} and type {ids.dtype}: expected integers "
                "[batch, length], both at least 1"
            )
        if mask.shape != ids.shape:
            raise GenerationError(
                f"attention_mask has shape {list(mask.shape)}: expected that of input_ids, {list(ids.shape)}"
            )
        vocabulary, limit = self.description["vocabulary"], self.description["max_positions"]
        if ids.min() < 0 or ids.max() >= vocabulary:
            raise GenerationError(
                f"input_ids holds {ids.min()} to {ids.max()}: expected ids from 0 to {vocabulary - 1}"
            )
        if limit is not None and ids.shape[1] > limit:
            raise GenerationError(
                f"the source has {ids.shape[1]} tokens, and the model has {limit} positions: cut it, or "
                "split it"
            )
        if not mask.astype(bool).any(axis=1).all():
            raise GenerationError(
                "attention_mask leaves no token of a source: expected at least one 1 per row"
            )
        return ids.astype(np.int64), mask.astype(np.int64)
