"""The files of a checkpoint of transformers, in a folder or a cached repository of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from tbt_compile.errors import FormatError


def reason_of(error: Exception) -> str:
    """The first line of an error of a library, with its type where the line does not speak for itself."""
    line = str(error).strip().split("\n")[0].rstrip(".:")
    return line if isinstance(error, OSError | ValueError) and line else f"{type(error).__name__}: {line}"


def find_file(folder: str, name: str) -> str | None:
    """The path of a file in a folder or a cached repository, if it is there."""
    if not folder:
        return None
    if Path(folder).is_dir():
        path = Path(folder) / name
        return str(path) if path.exists() else None
    cached = try_to_load_from_cache(folder, name)
    return cached if isinstance(cached, str) else None


def weight_files(folder: str) -> list[str]:
    """The safetensors files of a folder or a cached repository.

    Raises:
        FormatError: the index is damaged, or names a file that is not there.
    """
    single = find_file(folder, SAFE_WEIGHTS_NAME)
    if single is not None:
        return [single]
    index = find_file(folder, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        return []
    paths = {shard: find_file(folder, shard) for shard in _shards(index)}
    missing = [shard for shard, path in paths.items() if path is None]
    if missing:
        raise FormatError(
            f"{folder} lacks {missing[0]}, which {SAFE_WEIGHTS_INDEX_NAME} names: copy it there"
        )
    return [path for path in paths.values() if path is not None]


def _shards(index: str) -> list[str]:
    """The names of the files that an index lists, each beside it."""
    try:
        content = json.loads(Path(index).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{index} is damaged ({error}): save the model again") from error
    named = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(named, dict)
        or not named
        or not all(isinstance(shard, str) and Path(shard).name == shard for shard in named.values())
    ):
        raise FormatError(
            f"{index} is damaged: expected a weight_map from names of tensors to names of files beside it; "
            "save the model again"
        )
    return sorted(set(named.values()))


def saved_tensors(folder: str, names: Iterable[str]) -> dict[str, Tensor]:
    """Read the named tensors that exist in the safetensors files of a folder or a cached repository."""
    wanted, found = set(names), {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in wanted.intersection(file.keys()):
                found[name] = file.get_tensor(name)
    return found


def stored_types(folder: str) -> dict[str, str] | None:
    """The types of the tensors in the safetensors files by name; None if there are no such files."""
    files, found = weight_files(folder), {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                found[name] = str(file.get_slice(name).get_dtype())
    return found if files else None


def read_generation(folder: str) -> GenerationConfig | None:
    """The generation config of a folder or a cached repository, or None if there is none.

    Raises:
        FormatError: it is damaged; transformers leaves it out without a word.
    """
    if find_file(folder, GENERATION_CONFIG_NAME) is None:
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises many unrelated types for one cause
        raise FormatError(f"{folder}/{GENERATION_CONFIG_NAME} is damaged: save the model again") from error
