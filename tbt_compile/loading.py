"""`load` reads a saved folder, frozen or compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbt_compile.errors import FormatError
from tbt_compile.extras import require_extra
from tbt_compile.storage import model_folder
from tbt_compile.storage.checksums import Checks

if TYPE_CHECKING:
    from tbt_compile.freezing import FrozenModel
    from tbt_compile.runtime.compiled_model import CompiledModel
    from tbt_compile.runtime.compiled_module import CompiledModule


def load(
    path: str | Path,
    model: Any = None,
    num_threads: int | None = None,
    *,
    check: bool = True,
    public_key: str | Path | None = None,
) -> FrozenModel | CompiledModel | CompiledModule:
    """Load a folder written by the `save` of a frozen or compiled model.

    Args:
        path: the folder.
        model: for a frozen model outside transformers, an instance of its class to load into, in place,
            or the exported program that it was.
        num_threads: for a compiled model, the number of threads (default: `TVM_NUM_THREADS`, else one per
            CPU).
        check: whether every file is compared with its checksum; sizes and the manifest always are. False
            saves the time of reading a very large folder, which then has to be trusted.
        public_key: a file; the folder has to be signed by its private key (`tbt sign`), and may hold no
            further files.

    Returns:
        The model, of the type that wrote the folder.

    Raises:
        FormatError: the folder is missing, truncated or altered, of another format version, or not signed
            by the key.
        TargetError: a compiled model was built for another machine.
        MissingPackageError: a frozen model needs torch, and it is not installed.
    """
    kind = model_folder.peek_kind(path)
    if kind == model_folder.GENERATOR:
        from tbt_compile.runtime.compiled_model import CompiledModel

        return CompiledModel.load(path, num_threads=num_threads, check=check, public_key=public_key)
    if kind == model_folder.MODULE:
        from tbt_compile.runtime.compiled_module import CompiledModule

        return CompiledModule.load(path, num_threads=num_threads, check=check, public_key=public_key)
    if kind == model_folder.FROZEN:
        with require_extra():
            from tbt_compile.freezing import FrozenModel
            from tbt_compile.storage.frozen_folder import load_frozen

        return FrozenModel(*load_frozen(Path(path), model, Checks.of(check, public_key)))
    raise FormatError(f"{path} holds a model of kind {kind!r}: expected 'frozen' or 'compiled'")
