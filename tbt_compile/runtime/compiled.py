"""Compiled models: generate, save and load. Needs neither torch nor transformers."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tbt_compile import storage
from tbt_compile.codegen.host import check_runnable
from tbt_compile.codegen.target import TargetSpec
from tbt_compile.codegen.threads import choose
from tbt_compile.errors import GenerationError
from tbt_compile.recipe import Recipe
from tbt_compile.runtime.batching import (
    BATCH_SIZE,
    BATCH_TOKENS,
    Progress,
    run_batches,
)
from tbt_compile.runtime.generation import GenerationSettings, Tokens, generate
from tbt_compile.runtime.generation.validation import count
from tbt_compile.runtime.sources import checked_batch, checked_sources
from tbt_compile.tensor_files import map_file

if TYPE_CHECKING:
    from mmap import mmap

    from tbt_compile.runtime.machine import Machine
    from tbt_compile.runtime.seq2seq import Seq2SeqSession

LIBRARY = "model.so"
Array = npt.NDArray[Any]


class CompiledModel:
    """An encoder-decoder model as a library for one CPU, with its packed weights.

    Made by `tbt_compile.lower`, or read from a folder by `CompiledModel.load`. Several threads may use one
    model at the same time: they share the weights, and each gets a virtual machine of its own.

    Attributes:
        description: the manifest: recipe, target, kernels, versions, settings of the decode engine.
        target: what it was compiled for.
        recipe: what it was quantized with.
        num_threads: threads that one call uses, at most one per CPU; None: `TVM_NUM_THREADS`, else all CPUs.
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
        self.num_threads = None if num_threads is None else count("num_threads", num_threads)
        self._library = library
        self._linked: mmap | None = None
        self._tensors = tensors
        self._machine: Machine | None = None
        self._making = threading.Lock()
        self._settings = GenerationSettings.from_dict(description["generation"])

    @property
    def kernels(self) -> list[str]:
        """Names of the bit-serial and vector kernels in the library."""
        return list(self.description["kernels"])

    def times(self) -> dict[str, list[tuple[str, int]]]:
        """For every function, its steps in order with the nanoseconds that each took since it was loaded.

        Raises:
            GenerationError: the model was compiled without `clock=True`.
        """
        if not self.description["clock"]:
            raise GenerationError("the model does not measure its steps: compile it with lower(clock=True)")
        machine = self._ready()
        return {
            name: list(zip(steps, machine.times[name].tolist(), strict=True))
            for name, steps in self.description["clock"].items()
        }

    def generate(
        self,
        input_ids: npt.ArrayLike,
        attention_mask: npt.ArrayLike | None = None,
        *,
        decoder_input_ids: npt.ArrayLike | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
        **settings: Any,
    ) -> Tokens:
        """Greedy or beam search; the same tokens and padding as transformers' `generate(do_sample=False)`.

        An interrupt (Ctrl-C) is taken after the present step or the encoder; the model can be used again.

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
        ids, mask = self._checked(input_ids, attention_mask)
        return generate(
            self._open(ids, mask),
            self._settings.replace(**settings),
            len(ids),
            decoder_input_ids=decoder_input_ids,
            encoder_input_ids=ids,
            on_tokens=on_tokens,
        )

    def generate_many(
        self,
        sources: Iterable[Any],
        *,
        batch_size: int = BATCH_SIZE,
        batch_tokens: int = BATCH_TOKENS,
        num_workers: int = 1,
        num_threads: int | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> list[Tokens]:
        """Generate for any number of sources, in batches of similar length, several at a time.

        What is written for a source depends on nothing but the source and the settings. An interrupt
        (Ctrl-C) is taken at once, and the model can be used again right away.

        Args:
            sources: lists of token ids, or rows with `input_ids` and, where they are padded on the right,
                `attention_mask`, such as those of a tokenized `datasets.Dataset`.
            batch_size: most sources in a batch.
            batch_tokens: most source tokens in a batch, with padding; a longer source is a batch of its own.
            num_workers: batches at a time, each in a thread of its own; the weights are shared.
            num_threads: threads for each batch (default: those of the model, divided among the workers).
            progress: called after every batch with the number of sources done, and of all.
            settings: as in `generate`.

        Returns:
            For every source, in the given order, int64 [T]: the decoder's start token, what was written,
            and the end token if it came to one; with num_return_sequences n, n of them in a row.

        Raises:
            GenerationError: a source or a setting does not fit, before anything is generated.
            TargetError: the model was compiled for another machine.
        """
        chosen = self._settings.replace(**settings)
        workers = count("num_workers", num_workers)
        rows = checked_sources(sources, self.description["vocabulary"], self.description["max_positions"])
        share = max(1, choose(self.num_threads) // workers)
        threads = share if num_threads is None else count("num_threads", num_threads)
        return run_batches(
            lambda ids, mask: self._open(ids, mask, threads),
            chosen,
            rows,
            batch_size=count("batch_size", batch_size),
            batch_tokens=count("batch_tokens", batch_tokens),
            num_workers=workers,
            progress=progress,
        )

    def session(
        self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None = None
    ) -> Seq2SeqSession:
        """Encode a batch and return a `DecoderSession`, for a search of one's own.

        Arguments and errors are those of `generate`.
        """
        return self._open(*self._checked(input_ids, attention_mask))

    def encode(
        self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float32]:
        """The encoder's output, float32 [B, S, D]. Arguments and errors are those of `generate`."""
        from tbt_compile.runtime.machine import as_array

        return as_array(self._encode(*self._checked(input_ids, attention_mask)))

    def decoder_session(self, hidden: npt.NDArray[np.float32], attention_mask: Tokens) -> Seq2SeqSession:
        """A `DecoderSession` over what `encode` returned, [B, S, D], and its mask, int64 [B, S].

        Raises:
            GenerationError: the two are not of the same sources.
        """
        from tbt_compile.runtime.machine import tensor

        if hidden.ndim != 3 or attention_mask.shape != hidden.shape[:2]:
            raise GenerationError(
                f"encoder output of shape {list(hidden.shape)} with attention_mask of shape "
                f"{list(attention_mask.shape)}: expected [batch, length, width] and [batch, length]"
            )
        return self._decode(tensor(hidden), attention_mask)

    def _open(self, ids: Tokens, mask: Tokens, num_threads: int | None = None) -> Seq2SeqSession:
        return self._decode(self._encode(ids, mask, num_threads), mask)

    def _encode(self, ids: Tokens, mask: Tokens, num_threads: int | None = None) -> Any:
        from tbt_compile.runtime.machine import tensor
        from tbt_compile.runtime.tvm_runtime import set_threads

        machine = self._ready()
        set_threads(num_threads or self.num_threads)
        return machine.call("encoder", tensor(ids), tensor(mask))[0]

    def _decode(self, hidden: Any, mask: Tokens) -> Seq2SeqSession:
        from tbt_compile.runtime.seq2seq import DecoderLimits, Seq2SeqSession

        limits = DecoderLimits(
            self.description["layers"], self.description["vocabulary"], self.description["max_positions"]
        )
        return Seq2SeqSession(self._ready(), limits, hidden, mask)

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
        with self._making:
            if self._machine is None:
                from tbt_compile.runtime.machine import Machine

                check_runnable(self.target)
                functions, outputs = self.description["functions"], self.description["outputs"]
                steps = self.description["clock"]
                self._machine = Machine(self._library, functions, outputs, self._tensors, steps)
            return self._machine

    def _checked(
        self, input_ids: npt.ArrayLike, attention_mask: npt.ArrayLike | None
    ) -> tuple[Tokens, Tokens]:
        limits = self.description["vocabulary"], self.description["max_positions"]
        return checked_batch(input_ids, attention_mask, *limits)
