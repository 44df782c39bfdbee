"""The further files of a compiled folder: tokenizer, chat template, generation config.

The library does not read them. They come along when a loaded model is saved again; until then large ones are
mapped, which costs no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tbt_compile.storage.model_folder import CARD, GENERATOR, KINDS
from tbt_compile.storage.tensor_files import map_file

GENERATION = "generation_config.json"
_SMALL = 2**16  # bytes: a mapped file takes a handle
Files = Mapping[str, Any]
"""The contents of files, bytes or mapped ones, by their names in the folder."""


def read_companions(folder: Path, listed: Collection[str], libraries: Collection[str]) -> dict[str, Any]:
    """Map the further files of a folder.

    Args:
        folder: of a compiled model.
        listed: the names of all files, without the manifest.
        libraries: the names of its libraries.

    Returns:
        Their contents; the model card is none of them, since every save writes its own.
    """
    own = {KINDS[GENERATOR].tensors, CARD, *libraries}
    files = {name: folder / name for name in listed if name not in own}
    return {
        name: map_file(file) if file.stat().st_size > _SMALL else file.read_bytes()
        for name, file in files.items()
    }


def write_companions(folder: Path, files: Files, tokenizer: Any = None) -> None:
    """Write the further files of a model to a folder.

    Args:
        folder: to write to.
        files: their contents.
        tokenizer: with `save_pretrained`; its files take the place of those of an earlier one, or None.
    """
    kept = files if tokenizer is None else {name: files[name] for name in files if name == GENERATION}
    for name, content in kept.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
