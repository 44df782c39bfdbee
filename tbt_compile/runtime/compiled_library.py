"""The base class of compiled models: libraries, packed weights and manifest, with saving and loading."""

from __future__ import annotations

import copy
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from tbt_compile.codegen.target.host import best_target, check_runnable, is_runnable
from tbt_compile.errors import GenerationError
from tbt_compile.recipe import Recipe
from tbt_compile.runtime.builds import Build, file_names, read_compiled, shared_bytes
from tbt_compile.runtime.card import model_card
from tbt_compile.runtime.companions import Files, read_companions, write_companions
from tbt_compile.runtime.copying import Origin, reduced
from tbt_compile.runtime.generation.validation import count
from tbt_compile.runtime.pretrained import Pretrained
from tbt_compile.storage import model_folder
from tbt_compile.storage.checksums import ALL, SHA256, Checks
from tbt_compile.storage.os_errors import writing
from tbt_compile.storage.tensor_files import encode

if TYPE_CHECKING:
    from typing import Self

    from tbt_compile.inspection.layers import Summary
    from tbt_compile.runtime.bound_library import BoundLibrary

Array = npt.NDArray[Any]
log = logging.getLogger(__name__)


class CompiledLibrary(Pretrained):
    """Base class of `CompiledModel`, which generates text, and `CompiledModule`, which is called.

    Thread-safe: threads share the weights, and functions have no state. Copies share them too; a pickle names
    the folder that the model was loaded from, or holds its files (see `copying`).

    A model compiled for several CPUs has one library for each, and uses the one with the most features that
    this CPU supports.

    Attributes:
        description: the manifest: recipe, versions and settings of the class, with target, kernels and so
            on of the library in use.
        target: the target of the library in use.
        targets: the targets of all libraries.
        recipe: the recipe that the model was prepared with.
        num_threads: threads per call, at most one per CPU; None: `TVM_NUM_THREADS`, else all CPUs.
    """

    KIND: ClassVar[str]
    """Kind of the folders that hold models of this class."""

    def __init__(
        self,
        builds: Sequence[Build],
        description: dict[str, Any],
        tensors: dict[str, Array],
        num_threads: int | None = None,
        files: Files | None = None,
    ) -> None:
        self.targets = tuple(build.target for build in builds)
        # A model for other machines can still be described and saved: the first build describes it.
        self._build = builds[best_target(self.targets) if any(map(is_runnable, self.targets)) else 0]
        self.target = self._build.target
        self.description = {**description, **self._build.facts}
        self.recipe = Recipe.from_dict(description["recipe"])
        self.num_threads = None if num_threads is None else count("num_threads", num_threads)
        self._builds = tuple(builds)
        self._common = description
        self._tensors = tensors
        self._files = files or {}
        self._origin: Origin | None = None
        self._bound_library: BoundLibrary | None = None
        self._binding = threading.Lock()

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels in the library in use."""
        return list(self.description["kernels"])

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the tensors in memory: all "weights", and those "shared" by all libraries.

        Libraries that read packed weights in different layouts have separate copies.
        """
        total = sum(tensor.nbytes for tensor in self._tensors.values())
        return {"weights": total, "shared": shared_bytes(self._builds, self._tensors)}

    def stored_bytes(self) -> dict[str, int]:
        """Return the bytes that every tensor takes in a folder, by name."""
        return {name: encode(tensor).nbytes for name, tensor in self._tensors.items()}

    def library_bytes(self) -> dict[str, int]:
        """Return the sizes of the libraries by the names of their files; empty before they are saved."""
        names = zip(file_names(self._builds), self._builds, strict=True)
        return {name: len(build.linked) for name, build in names if build.linked is not None}

    def times(self) -> dict[str, list[tuple[str, int]]]:
        """Return, per function, its steps in order, with the nanoseconds spent in each since loading.

        Raises:
            GenerationError: the model was compiled without `clock=True`.
        """
        if not self.description["clock"]:
            raise GenerationError("the model has no clocks: compile it with lower(clock=True)")
        library = self._bound()
        return {
            name: list(zip(steps, library.times[name].tolist(), strict=True))
            for name, steps in self.description["clock"].items()
        }

    def save(self, path: str | Path, tokenizer: Any = None) -> Path:
        """Write libraries, packed weights and manifest to a folder that runs on every target.

        A model card, README.md, is written too. A loaded model can be saved even if its folder was moved,
        replaced or deleted since; its tokenizer and generation config come along.

        Args:
            path: the folder; a saved model there is replaced.
            tokenizer: a transformers tokenizer or processor to store with the model, in place of one that
                came along.

        Returns:
            The folder.

        Raises:
            FormatError: `path` exists and is not a model folder, or holds files that do not belong to it.
            TargetError: there is no linker for the target's architecture.
            WriteError: the system refuses: no space, no permission, a bad path.
        """
        model_folder.require_replaceable(path)
        with writing(path), tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            write_companions(folder, self._files, tokenizer)
            names = file_names(self._builds)
            builds = [build.save(folder / name) for build, name in zip(self._builds, names, strict=True)]
            manifest = {**self._common, "builds": builds}
            libraries = {name: (folder / name).stat().st_size for name in names}
            card = model_card(self.description, self.targets, libraries, self.stored_bytes())
            (folder / model_folder.CARD).write_text(card, encoding="utf-8")
            files = {
                file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
            }
            return model_folder.write_folder(path, self.KIND, manifest, self._tensors, files)

    @classmethod
    def load(
        cls,
        path: str | Path,
        num_threads: int | None = None,
        *,
        check: bool = True,
        public_key: str | Path | None = None,
    ) -> Self:
        """Load a compiled folder of this class; `tbt_compile.load` loads any folder.

        Args:
            path: the folder.
            num_threads: as the attribute.
            check: as for `tbt_compile.load`.
            public_key: as for `tbt_compile.load`.

        Raises:
            FormatError: the folder is missing, truncated or altered, has another kind, or is not signed by
                the key.
            TargetError: it was compiled for CPUs with features that this machine lacks.
        """
        checks = Checks.of(check, public_key)
        model = model_folder.read_whole(path, lambda: cls._ready(Path(path), num_threads, checks))
        log.info("loaded %s: %s", path, model.label)
        return model

    @classmethod
    def _ready(cls, path: Path, num_threads: int | None, checks: Checks) -> Self:
        model = cls._read(path, num_threads, checks)
        best_target(model.targets)
        model._bound()
        return model

    @classmethod
    def read(cls, path: str | Path, num_threads: int | None = None) -> Self:
        """Read a compiled folder of this class, also one for other machines.

        Raises:
            FormatError: as for `load`.
        """
        return model_folder.read_whole(path, lambda: cls._read(Path(path), num_threads))

    @classmethod
    def _read(cls, path: Path, num_threads: int | None, checks: Checks = ALL) -> Self:
        manifest = read_compiled(path, cls.KIND, checks)
        libraries = [recorded["library"] for recorded in manifest["builds"]]
        builds = [
            Build.read(path, recorded, manifest["files"][library][SHA256] if checks.contents else None)
            for recorded, library in zip(manifest["builds"], libraries, strict=True)
        ]
        files = read_companions(path, manifest["files"], libraries)
        model = cls(builds, manifest, model_folder.read_tensors(path, manifest), num_threads, files)
        model._origin = Origin(path.absolute(), manifest[model_folder.CHECKSUM])
        return model

    def __copy__(self) -> Self:
        """Return a model that shares libraries and weights."""
        copied = type(self)(self._builds, self._common, self._tensors, self.num_threads, self._files)
        copied._origin, copied._bound_library = self._origin, self._bound_library
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a model that shares libraries and weights, which are read-only."""
        copied = memo[id(self)] = copy.copy(self)
        copied._common = copy.deepcopy(self._common, memo)
        copied.description = copy.deepcopy(self.description, memo)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the folder that the model was loaded from, else with the contents of one."""
        return reduced(self, self._origin)

    def __str__(self) -> str:
        """The label, then a row per kind of layer; `summary` has each layer."""
        from tbt_compile.inspection.brief import brief_text

        return brief_text(self.label, self._recorded())

    def _repr_html_(self) -> str:
        from tbt_compile.inspection.brief import brief_html

        return brief_html(self.label, self._recorded())

    def _recorded(self) -> Summary | None:
        from tbt_compile.inspection.layers import Summary

        recorded = self.description.get("summary")
        return None if recorded is None else Summary.from_dict(recorded)

    @property
    def label(self) -> str:
        """Class, recipe and target, in a line."""
        text = f"{self.description['class']} at {self.recipe}, compiled for {self.target.label}"
        if len(self.targets) == 1:
            return text
        return f"{text}, chosen from {', '.join(target.label for target in self.targets)}"

    def with_library(self, make: Callable[[BoundLibrary, dict[str, Array]], BoundLibrary]) -> Self:
        """Return a model that calls another library, made from the one in use and the tensors by name.

        Raises:
            TargetError: it was compiled for another machine.
        """
        other = copy.copy(self)
        other._bound_library = make(self._bound(), self._tensors)
        return other

    @property
    def library(self) -> BoundLibrary:
        """The library in use with its tensors bound."""
        return self._bound()

    def _bound(self) -> BoundLibrary:
        """Return the library in use with its tensors bound; binds it on first use.

        Raises:
            TargetError: it was compiled for another machine.
        """
        with self._binding:
            if self._bound_library is None:
                from tbt_compile.runtime.bound_library import BoundLibrary

                check_runnable(self.target)
                facts = self.description
                self._bound_library = BoundLibrary(
                    self._build.checked_library(),
                    facts["functions"],
                    facts["outputs"],
                    {name: self._tensors[name] for name in self._build.tensor_names},
                    facts["clock"],
                    facts["stacks"],
                )
            return self._bound_library

    def _with_threads(self, num_threads: int | None = None) -> BoundLibrary:
        """Return the library after setting the thread count for calls from this Python thread."""
        from tbt_compile.runtime.tvm_runtime import set_threads

        library = self._bound()
        set_threads(num_threads or self.num_threads)
        return library
