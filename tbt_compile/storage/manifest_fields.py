"""The fields of a manifest, and their types; `docs/formats.md` says what each means.

A reader ignores fields that it does not know, except in records marked `Only`. A field that changes its
meaning, or that readers need and older folders lack, or a new one in such a record, raises the version of the
format (see `model_folder.KINDS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tbt_compile.encoding import Encoding
from tbt_compile.storage.field_types import Only, Row, misfit

_MAX_RANK = 8
_NAMES, _LISTS = {str: str}, {str: [str]}


def _size(value: Any, place: str) -> str | None:
    return misfit(value, int, place) or (f"{place} is {value}: expected 0 or more" if value < 0 else None)


def _encoding(value: Any, place: str) -> str | None:
    names = [encoding.value for encoding in Encoding]
    return None if value in names else f"{place} is {str(value)[:40]!r}: expected one of {', '.join(names)}"


def _file_name(value: Any, place: str) -> str | None:
    wrong = misfit(value, str, place)
    if wrong is None and not is_inside(value):
        wrong = f"{place} is {value[:40]!r}: expected the name of a file in the folder"
    return wrong


def file_names(value: Any, place: str) -> str | None:
    """A type (see `field_types`): an object whose names are those of files in the folder."""
    wrong = misfit(value, {str: Any}, place)
    named = () if wrong else (_file_name(name, f"a name in {place}") for name in value)
    return wrong or next((each for each in named if each), None)


def _files(value: Any, place: str) -> str | None:
    return file_names(value, place) or misfit(
        value, {str: {"bytes": _size, "sha256": str, "crc32?": str}}, place
    )


def _layout(value: Any, place: str) -> str | None:
    """What a module returns: see `adapters.results`."""
    kinds = {"tensor": _size, "value": Any, "dict": {str: _layout}, "list": [_layout], "tuple": [_layout]}
    names = [name for name in kinds if isinstance(value, dict) and name in value]
    if len(names) != 1:
        return f"{place} is no layout: expected one of {', '.join(kinds)}"
    named = {"fields": [str], "class": str} if "fields" in value else {}
    return misfit(value, {names[0]: kinds[names[0]], **named}, place)


FOLDER = {
    "format": str,
    "version": int,
    "kind": str,
    "tbt_compile": str,
    "tensors": {
        str: {"dtype": str, "shape": [_size], "coding?": str, "offset?": _size, "bytes?": _size},
    },
    "files": _files,
    "checksum": str,
}
"""Of every folder; the rest is added to it."""

_MODEL = {"recipe": {str: Any}, "class": str, "versions": _NAMES}
_DTYPE = {"checkpoint": [str], "computation": str}
_SITE = {
    "kind": str,
    "fqn": str,
    "tied_to": (str, None),
    "calls": [{str: Any}],
    "shape": (Row(int, int), None),
    "operands": [{"name": str, "encoding": _encoding, "reason": str}],
}
_OPERAND = {
    "encoding": _encoding,
    "shape?": Row(_size, _size),
    "groups?": _size,
    "center?": bool,
    "floor?": float,
    "rms_norm?": {"size": _size, "eps": float},
    "hadamard?": _size,
    "offset?": bool,
    "bias?": bool,
    "why?": str,
}
_ARGUMENT = {
    "name": str,
    "dtype?": str,
    "shape?": [_size],
    "value?": Any,
    "type?": str,
    "is?": str,
    "free?": [int],
    "default?": Any,
}
FROZEN = {
    **_MODEL,
    "dtype?": _DTYPE,
    "quantizers": [{"module": str, "kind": str, "operands": {str: _OPERAND}}],
    "calls?": {str: {"names": [str], "sites": [_SITE]}},
    "tied": _NAMES,
    "derived?": [str],
    "inputs?": ([_ARGUMENT], None),
}

_BUILD = {
    "library": _file_name,
    "target": {"kind": str, "mtriple": str, "mcpu": str, "mattr?": [str]},
    "features": [str],
    "kernels": [str],
    "isa": str,
    "tiles": {str: Any},
    "functions": _LISTS,
    "outputs": {str: [Row(str, _size)]},
    "stacks": {str: [[_size]]},
    "clock": _LISTS,
    "reads": {str: [[str]]},
}
_BOUND = Only(
    {"size": str, "limit": int, "largest": bool, "reason": str, "modulus?": int, "last?": int},
)
_TOKENS = Only({"vocabulary": _size, "length?": (_size, None), "positions?": (_size, None)})
_LAYER = {
    "name": str,
    "kind": str,
    "weight": (str, None),
    "activations": [Only({"name": str, "encoding": _encoding, "why": str})],
    "parameters": _size,
    "bytes_before": _size,
    "bytes_after": _size,
    "nominal_bytes": _size,
    "macs": (_size, None),
    "tied_to": (str, None),
}
_SUMMARY = {
    "model": str,
    "stage": str,
    "recipe": (str, None),
    "layers": [Only(_LAYER)],
    "call": str,
    "uncounted": str,
    "totals": {str: Any},
}
_COMPILED = {**_MODEL, "dtype": _DTYPE, "builds": [_BUILD], "summary": _SUMMARY}
GENERATOR = {
    **_COMPILED,
    "generation": {str: Any},
    "sampling": {str: Any},
    "layers": _size,
    "vocabulary": _size,
    "max_positions": (_size, None),
    "limits": {
        "source": _TOKENS,
        "decoder": _TOKENS,
        "width": (_size, None),
        "bounds": {str: [_BOUND]},
        "block?": _size,
    },
    "clipped": [str],
    "features?": {"name": str, "shape": [_size], "states": _size},
    "speech?": Only(
        {
            "window": _size,
            "stride": _size,
            "max_target_positions": _size,
            "lang_to_id?": {str: _size},
            "task_to_id?": {str: _size},
            "languages?": _NAMES,
            "no_timestamps_token_id?": (_size, None),
            "max_initial_timestamp_index?": (_size, None),
            "language?": (str, None),
            "task?": (str, None),
            "return_timestamps?": bool,
            "is_multilingual?": bool,
            "forced_decoder_ids?": [(_size, None)],
        }
    ),
}
MODULE = {
    **_COMPILED,
    "inputs": [
        {
            "name": str,
            "dtype": str,
            "shape": [(_size, str)],
            "below?": int,
            "least?": int,
            "longest?": [(_size, None)],
            "fixed?": str,
        }
    ],
    "bounds": [_BOUND],
    "returns": _layout,
    "constants": {str: Any},
    "shared": _NAMES,
    "lookups": [str],
}


def is_inside(name: str) -> bool:
    """Whether a relative name, with "/", stays inside the folder on every system.

    >>> [is_inside(name) for name in ("model.so", "more/words.txt", "../model.so", "/etc/passwd", "c:model")]
    [True, True, False, False, False]
    """
    path = PurePosixPath(name)
    plain = path.parts and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
    return bool(plain) and not set(name) & set("\\:\0")


def wrong_build(manifest: Mapping[str, Any]) -> str | None:
    """Return which build of a compiled model names something that the folder does not have, None if all fit.

    Args:
        manifest: with the fields of `GENERATOR` or `MODULE`.
    """
    if not manifest["builds"]:
        return "builds is empty: expected at least one"
    for number, build in enumerate(manifest["builds"]):
        place = f"builds[{number}]"
        if build["library"] not in manifest["files"]:
            return f"{place}.library is {build['library']!r}: expected one of the files"
        for name, parameters in build["functions"].items():
            unknown = [parameter for parameter in parameters if parameter not in manifest["tensors"]]
            if unknown:
                return f"{place}.functions[{name!r}] reads {unknown[0]!r}: expected a tensor of the folder"
            if name not in build["outputs"]:
                return f"{place}.outputs[{name!r}] is missing"
            if any(rank > _MAX_RANK for _, rank in build["outputs"][name]):
                return f"{place}.outputs[{name!r}] has more than {_MAX_RANK} dimensions"
    return None
