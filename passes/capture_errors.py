"""Say in one sentence why a model cannot be captured, and where; torch.export says it in a page."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.nn.utils.rnn import PackedSequence

import tbt_compile

_LIBRARIES = (Path(tbt_compile.__file__).parent, Path(torch.__file__).parent)
_STANDARD = Path(sysconfig.get_path("stdlib"))
_ON_VALUES = (
    "goes one way or another by the values of a tensor, and a captured graph holds one way: use torch.where, "
    "or keep that part out of the module"
)
_PACKED = (
    "runs on packed sequences (`pack_padded_sequence`), whose sizes are values of the lengths: pass it the "
    "padded tensor, which gives the same results before the padding in one direction, and mask the rest"
)
_UNKNOWN_RESULT = re.compile(
    r"Found <class '(?:\w+\.)*(?:<locals>\.)?(\w+)'> in output, which is not a known"
)


def explained(error: BaseException, model: nn.Module) -> str:
    """Explain why a model could not be captured.

    Args:
        error: what `torch.export.export` raised.
        model: the model.

    Returns:
        A sentence with the module and the line, as far as they are known.
    """
    frames = list(_frames(error))
    reason = _ON_VALUES if isinstance(error, GuardOnDataDependentSymNode) else _first_sentence(error)
    unknown = _UNKNOWN_RESULT.search(reason)
    if unknown is not None:
        return (
            f"its forward returns an object of the class {unknown[1]}: return tensors and constants in "
            "tuples, NamedTuples, lists or dicts"
        )
    line = next(
        (found for frame, number in frames if (found := line_of(frame.f_code.co_filename, number))), ""
    )
    module = _module(frames, model)
    where = f"{module} ({line})" if line else module
    if any(isinstance(value, PackedSequence) for frame, _ in frames for value in frame.f_locals.values()):
        return f"{where} {_PACKED}"
    return f"{where} {reason}" if reason is _ON_VALUES else f"{where}: {reason}"


def relations_of(error: BaseException | None) -> list[Any]:
    """The relations of sizes that a capture took for granted before it failed."""
    frames = () if error is None else _frames(error)
    environments = (value for frame, _ in frames for value in frame.f_locals.values())
    return next(
        ([guard.expr for guard in each.guards] for each in environments if isinstance(each, ShapeEnv)), []
    )


def line_of(filename: str, number: int | None) -> str:
    """A line of a model's code, "gpt.py:12: if ids.shape[1] > 16"; "" in this package, torch and Python."""
    if filename.startswith("<"):  # code that Python made, of a dataclass for one
        return ""
    path = Path(filename)
    if path.is_relative_to(_STANDARD) and "site-packages" not in path.parts:
        return ""
    if any(path.is_relative_to(folder) for folder in _LIBRARIES):
        return ""
    text = linecache.getline(filename, number or 0).strip().rstrip(":")
    return f"{path.name}:{number}" + (f": {text}" if text else "")


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames that an error passed through, the innermost first."""
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return reversed(found)


def _module(frames: list[tuple[FrameType, int]], model: nn.Module) -> str:
    """The innermost module whose forward was running."""
    names = {id(module): name for name, module in model.named_modules()}
    for frame, _ in frames:
        running = frame.f_locals.get("self")
        if id(running) in names and names[id(running)]:
            return f"module {names[id(running)]!r} ({type(running).__name__})"
        if running is model:
            break
    return "its forward"


def _first_sentence(error: BaseException) -> str:
    """The first line of a message, or the name of the error if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
