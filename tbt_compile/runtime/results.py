"""Put the arrays of a call together as the module returned its tensors; needs no torch."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Sequence
from typing import Any


def put_together(layout: dict[str, Any], arrays: Sequence[Any]) -> Any:
    """Return arrays in the containers that a layout names.

    A NamedTuple is of the class that the module returned if the file that defines it is imported, else of one
    with the same name and fields.

    Args:
        layout: see `tbt_compile.adapters.results`.
        arrays: in the order of the tensors.

    Returns:
        The result of the call.
    """
    if "tensor" in layout:
        return arrays[layout["tensor"]]
    if "value" in layout:
        return layout["value"]
    if "dict" in layout:
        return {key: put_together(item, arrays) for key, item in layout["dict"].items()}
    if "list" in layout:
        return [put_together(item, arrays) for item in layout["list"]]
    items = tuple(put_together(item, arrays) for item in layout["tuple"])
    return _tuple_class(layout["class"], layout["fields"])(*items) if "fields" in layout else items


def _tuple_class(path: str, fields: list[str]) -> Any:
    """The class of a NamedTuple; nothing is imported, since a folder may come from anywhere."""
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, tuple) and list(getattr(found, "_fields", ())) == fields:
        return found
    return namedtuple(name.rpartition(".")[2], fields)
