"""Object code of functions: each is compiled once for all libraries, models and processes that need it."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tbt_compile.codegen.library.compile import DISABLED_PASSES, llvm_module, round_products
from tbt_compile.codegen.tvm_api import PrimFunc, Target, compiler_version, structural_hash
from tbt_compile.storage.content_cache import key_of, user_cache


@dataclass
class Object:
    """A compiled function.

    Attributes:
        key: names the code: it differs if anything differs that the code depends on.
    """

    key: str
    _module: Any = None
    _code: bytes | None = field(default=None, repr=False)

    @property
    def is_cached(self) -> bool:
        """Whether the code was known, and the function was not compiled."""
        return self._module is None

    def code(self) -> bytes:
        """The object file. Writing it takes as long as compiling, and not every library is run."""
        if self._code is None:
            with tempfile.TemporaryDirectory(prefix="tbt-object-") as folder:
                path = Path(folder) / "function.o"
                self._module.write_to_file(str(path))
                self._code = path.read_bytes()
            self._module = None
            cache = user_cache()
            if cache is not None:
                cache.write(self.key, self._code)
        return self._code


def compile_object(name: str, function: PrimFunc, target: Target) -> Object:
    """Compile a function, or take its code from the cache.

    Args:
        name: under which the object exports the function.
        function: see `compile.round_products`, which is applied.
        target: what to compile for.

    Returns:
        The object.
    """
    rounded = round_products(function)
    # The text is what the code depends on; the hash sees what the text may leave out.
    content = (rounded.script(), str(structural_hash(rounded)))
    key = key_of("object", *_compiler(), str(target), name, *content)
    cache = user_cache()
    code = None if cache is None else cache.read(key)
    return Object(key, llvm_module({name: rounded}, target) if code is None else None, code)


@functools.cache
def _compiler() -> tuple[str, ...]:
    """What the code of all functions depends on."""
    return version("tbt-compile"), compiler_version(), *DISABLED_PASSES
