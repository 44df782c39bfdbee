"""An encoder-decoder model whose compiled functions run on a remote board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tbt_compile.codegen.library.names import MAX_RANK, shapes_of
from tbt_compile.codegen.tools.remote import Board
from tbt_compile.runtime.builds import Build
from tbt_compile.runtime.caches import arranged
from tbt_compile.storage import model_folder


class RemoteModel:
    """The functions of a compiled folder, on a board with the weights in its memory.

    Args:
        board: to run on.
        folder: compiled for the board's CPU and no other.
    """

    def __init__(self, board: Board, folder: Path) -> None:
        manifest = model_folder.read_manifest(folder, model_folder.GENERATOR)
        build = Build.read(folder, manifest["builds"][0], None)
        tensors = model_folder.read_tensors(folder, manifest)
        self._board, self._facts, self._manifest = board, build.facts, manifest
        self._module = board.load(Path(build.library))
        self._weights = {
            function: board.table([tensors[name] for name in names])
            for function, names in build.facts["functions"].items()
        }

    def generate(
        self, source: list[int], count: int, repeats: int
    ) -> tuple[list[int], dict[str, list[float]]]:
        """Generate greedily without the end token, then time every function.

        Args:
            source: token ids.
            count: tokens to generate.
            repeats: samples of each time.

        Returns:
            The tokens, start token included, and the seconds per call of each function with its last
            arguments.
        """
        settings = self._manifest["generation"]
        tokens = [settings["decoder_start_token_id"]]
        mask = self._board.tensor(np.ones((1, len(source)), np.int64))
        calls = {"encoder": self._arguments("encoder", self._row(source), mask)}
        (hidden,) = self._call("encoder", calls["encoder"])
        calls["first_step"] = self._arguments("first_step", self._row(tokens), hidden, mask)
        outputs = self._call("first_step", calls["first_step"])
        own = 1 + 2 * self._manifest["layers"]
        logits, grown, fixed = outputs[0], self._self_caches(outputs[:own]), outputs[own:]
        for _ in range(count):
            scores = logits.numpy()[0, 0]
            scores[settings["eos_token_id"]] = -np.inf
            tokens.append(int(scores.argmax()))
            calls["step"] = self._arguments("step", self._row(tokens[-1:]), mask, *grown, *fixed)
            for old, new in zip(grown, calls["step"][-len(grown) :], strict=True):
                _make_room(old, new)
            logits, *grown = self._call("step", calls["step"])
        return tokens, {
            name: self._board.seconds(self._module, name, arguments, repeats)
            for name, arguments in calls.items()
        }

    def _self_caches(self, outputs: list[Any]) -> list[Any]:
        """The self-attention caches that the first step returned, in the arrangement that `step` takes."""
        return [
            self._board.tensor(np.stack([cache.numpy() for cache in caches]))
            if isinstance(caches, list)
            else caches
            for caches in arranged(outputs, self._facts["stacks"]["step"])
        ]

    def _row(self, values: list[int]) -> Any:
        return self._board.tensor(np.array([values], np.int64))

    def _arguments(self, function: str, *inputs: Any) -> list[Any]:
        """The arguments of a call: inputs, weights, and outputs of the shapes that these inputs imply."""
        outputs = self._facts["outputs"][function]
        shapes = self._board.tensor(np.zeros((len(outputs), MAX_RANK), np.int64))
        self._module[shapes_of(function)](*inputs, shapes)
        places = [
            self._board.empty(shape[:rank].tolist(), dtype)
            for shape, (dtype, rank) in zip(shapes.numpy(), outputs, strict=True)
        ]
        return [*inputs, self._weights[function], *places]

    def _call(self, function: str, arguments: list[Any]) -> list[Any]:
        self._module[function](*arguments)
        return arguments[-len(self._facts["outputs"][function]) :]


def _make_room(old: Any, new: Any) -> None:
    """Copy the tokens of a cache into a larger one; a step only writes its own token."""
    begun = np.zeros(new.shape, new.dtype)
    begun[tuple(slice(size) for size in old.shape)] = old.numpy()
    new.copyfrom(begun)
