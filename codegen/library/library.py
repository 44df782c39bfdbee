"""Compiled functions as a library, which is linked when it is first called or saved."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tbt_compile.codegen.library.link import link, link_command, link_sources
from tbt_compile.codegen.library.objects import Object, compile_object
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tvm_api import PrimFunc, Target, tvm
from tbt_compile.errors import LoweringError
from tbt_compile.storage.atomic_write import atomic_write, make_parents
from tbt_compile.storage.content_cache import key_of, user_cache

log = logging.getLogger(__name__)


class Library:
    """Functions compiled for one CPU. Indexing by name gives a function, if this machine can run it.

    Args:
        objects: the code of the functions.
        spec: the CPU.
    """

    def __init__(self, objects: Sequence[Object], spec: TargetSpec) -> None:
        self._objects = objects
        self._spec = spec

    def __getitem__(self, name: str) -> Any:
        return self.jit()[name]

    def jit(self) -> Any:
        """The library as a module of TVM in this process."""
        return self._loaded

    def export(self, path: str | Path) -> Path:
        """Write a shared library, atomically; missing folders are created.

        Raises:
            TargetError: no linker for the CPU's architecture was found.
            LoweringError: the linker failed, or the code is for another architecture.
        """
        path, linked = Path(path), self._linked
        make_parents(path)
        with atomic_write(path) as draft:
            draft.write_bytes(linked)
        return path

    @cached_property
    def _linked(self) -> bytes:
        cache = user_cache()
        linking = (*link_command(self._spec), *link_sources(self._spec))
        key = key_of("library", *linking, *(each.key for each in self._objects))
        found = None if cache is None else cache.read(key)
        if found is not None:
            return found
        linked = link([each.code() for each in self._objects], self._spec)
        if cache is not None:
            cache.write(key, linked)
        return linked

    @cached_property
    def _loaded(self) -> Any:
        # Not from the cache, where another process may replace it. A loaded file may be removed, but stays on
        # Windows until temporary files are cleared.
        with tempfile.TemporaryDirectory(prefix="tbt-load-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / f"library{self._spec.system.suffix}"
            path.write_bytes(self._linked)
            try:
                return tvm.runtime.load_module(str(path))
            except RuntimeError as error:
                raise LoweringError(
                    f"a library compiled for {self._spec.mcpu} cannot be loaded ({error}): it has to be this "
                    "machine's CPU, and programs may have to be run from the folder of temporary files, "
                    "which the environment variable TMPDIR sets"
                ) from error


def compile_functions(functions: Mapping[str, PrimFunc], spec: TargetSpec) -> Library:
    """Compile functions to a library that exports them by name, those that the cache lacks."""
    target = Target(spec.code_options)
    objects = [compile_object(name, function, target) for name, function in functions.items()]
    cached = sum(each.is_cached for each in objects)
    log.log(
        logging.INFO if len(objects) > 1 else logging.DEBUG,
        "compiled %d functions for %s, and took %d from the cache",
        len(objects) - cached,
        spec.mcpu,
        cached,
    )
    return Library(objects, spec)
