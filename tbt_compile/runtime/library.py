"""What every compiled model is: a library for one CPU, packed weights, a description; saving and loading."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from tbt_compile import storage
from tbt_compile.codegen.host import check_runnable
from tbt_compile.codegen.parameters import Parameter
from tbt_compile.codegen.target import TargetSpec, parse_target
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from typing import Self

    from tbt_compile.runtime.machine import Machine

LIBRARY = "model.so"
Array = npt.NDArray[Any]


class CompiledLibrary:
    """The base of `CompiledModel`, which generates text, and `CompiledModule`, which is called.

    Attributes:
        description: the manifest: recipe, target, kernels, versions, and what the class has to know.
        target: what it was compiled for.
        recipe: what it was quantized with.
        num_threads: threads to run with; None leaves the choice to TVM.
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
        self.target: TargetSpec = parse_target(description["target"])
        self.recipe = Recipe.from_dict(description["recipe"])
        self.num_threads = num_threads
        self._library = library
        self._tensors: dict[str, Array] | None = tensors
        self._source: Path | None = None
        self._machine: Machine | None = None

    @property
    def kernels(self) -> list[str]:
        """Names of the bit-serial and vector kernels in the library."""
        return list(self.description["kernels"])

    def save(self, path: str | Path, tokenizer: Any = None) -> Path:
        """Write library, packed weights and manifest to a folder that runs on the target.

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
            if self._source is not None:
                (folder / LIBRARY).write_bytes((self._source / LIBRARY).read_bytes())
            else:
                export_library(self._library, folder / LIBRARY, self.target)
            files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
            return storage.write_folder(path, self.KIND, self.description, self._stored(), files)

    @classmethod
    def load(cls, path: str | Path, num_threads: int | None = None) -> Self:
        """Read a compiled folder of this class; `tbt_compile.load` reads any.

        Raises:
            FormatError: the folder is missing, truncated or altered, or of another kind.
            TargetError: it was compiled for a CPU with features that this machine lacks.
        """
        path = Path(path)
        manifest = storage.read_manifest(path, cls.KIND)
        check_runnable(parse_target(manifest["target"]))
        model = cls(path / LIBRARY, manifest, storage.read_tensors(path, manifest), num_threads)
        model._source = path
        model._ready()
        return model

    def __str__(self) -> str:
        name = self.description["class"]
        return f"{name} at {self.recipe}, compiled for {self.target.mcpu} ({self.target.arch})"

    def _ready(self) -> Machine:
        """The machine, made at first use; a model compiled for another machine never gets that far."""
        from tbt_compile.runtime.machine import Machine, set_threads

        if self._machine is None:
            check_runnable(self.target)
            parameters = {
                name: Parameter.from_dict(name, values)
                for name, values in self.description["parameters"].items()
            }
            functions = {
                name: [parameters[parameter] for parameter in names]
                for name, names in self.description["functions"].items()
            }
            self._machine = Machine(self._library, functions, self._stored(), self.target.isa)
            if self._source is not None:
                self._tensors = None  # the folder has them; keep one copy in memory
        if self.num_threads is not None:
            set_threads(self.num_threads)
        return self._machine

    def _stored(self) -> dict[str, Array]:
        """The tensors in their stored form."""
        if self._tensors is None:
            assert self._source is not None
            return storage.read_tensors(self._source, storage.read_manifest(self._source, self.KIND))
        return self._tensors
