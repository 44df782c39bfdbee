"""`load` reads a saved folder, frozen or compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbt_compile.errors import FormatError
from tbt_compile.extras import require_extra
from tbt_compile.storage import model_folder

if TYPE_CHECKING:
    from tbt_compile.freezing import FrozenModel
    from tbt_compile.runtime.compiled_model import CompiledModel
    from tbt_compile.runtime.compiled_module import CompiledModule


def load(
    path: str | Path, model: Any = None, num_threads: int | None = None
) -> FrozenModel | CompiledModel | CompiledModule:
    """Load a folder written by the `save` of a frozen or compiled model.

    Args:
        path: the folder.
        model: for a frozen model outside transformers, an instance of its class to load into, in place,
            or the exported program that it was.
        num_threads: for a compiled model, the number of threads (default: `TVM_NUM_THREADS`, else one per
            CPU).

    Returns:
        The model, of the type that wrote the folder.

    Raises:
        FormatError: the folder is missing, truncated or altered, or of another format version.
        TargetError: a compiled model was built for another machine.
        MissingPackageError: a frozen model needs torch, and it is not installed.
    """
    kind = model_folder.peek_kind(path)
    if kind == model_folder.GENERATOR:
        from tbt_compile.runtime.compiled_model import CompiledModel

        return CompiledModel.load(path, num_threads=num_threads)
    if kind == model_folder.MODULE:
        from tbt_compile.runtime.compiled_module import CompiledModule

        return CompiledModule.load(path, num_threads=num_threads)
    if kind == model_folder.FROZEN:
        with require_extra():
            from tbt_compile.freezing import FrozenModel
            from tbt_compile.storage.frozen_folder import load_frozen

        return FrozenModel(*load_frozen(Path(path), model))
    raise FormatError(f"{path} holds a model of kind {kind!r}: expected 'frozen' or 'compiled'")
