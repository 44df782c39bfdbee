"""What every compiled model is: a library for one CPU, packed weights, a description; saving and loading."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from tbt_compile import storage
from tbt_compile.codegen.host import check_runnable
from tbt_compile.codegen.target import TargetSpec
from tbt_compile.errors import GenerationError
from tbt_compile.recipe import Recipe
from tbt_compile.runtime.generation.validation import count
from tbt_compile.tensor_files import map_file

if TYPE_CHECKING:
    from mmap import mmap
    from typing import Self

    from tbt_compile.runtime.machine import Machine

LIBRARY = "model.so"
Array = npt.NDArray[Any]


class CompiledLibrary:
    """The base of `CompiledModel`, which generates text, and `CompiledModule`, which is called.

    Several threads may use one model at the same time: they share the weights, and a function keeps nothing
    between calls.

    Attributes:
        description: the manifest: recipe, target, kernels, versions, and what the class has to know.
        target: what it was compiled for.
        recipe: what it was quantized with.
        num_threads: threads that one call uses, at most one per CPU; None: `TVM_NUM_THREADS`, else all CPUs.
    """

    KIND: ClassVar[str]
    """Kind of the folders of this class."""

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
            return storage.write_folder(path, self.KIND, self.description, self._tensors, files)

    @classmethod
    def load(cls, path: str | Path, num_threads: int | None = None) -> Self:
        """Read a compiled folder of this class; `tbt_compile.load` reads any.

        Raises:
            FormatError: the folder is missing, truncated or altered, or of another kind.
            TargetError: it was compiled for a CPU with features that this machine lacks.
        """
        path = Path(path)
        manifest = storage.read_manifest(path, cls.KIND)
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

    def _with_threads(self, num_threads: int | None = None) -> Machine:
        """The machine, for calls from this Python thread with so many threads (default: the model's)."""
        from tbt_compile.runtime.tvm_runtime import set_threads

        machine = self._ready()
        set_threads(num_threads or self.num_threads)
        return machine
