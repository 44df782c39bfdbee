"""Runs compiled kernels and models for a test in another process; this one may be an emulated machine's.

Every line of standard input is a request in JSON, {"do": name, arguments ...}, and is answered with one line:
{"result": ...}, or {"error": class, "message": ...}. Arrays travel in files of a folder that both see.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

import tbt_compile
from tbt_compile.codegen.target import host
from tbt_compile.codegen.tvm_api import tvm

RUBBISH = 99
"""What an output holds before a kernel has written it."""


def describe() -> dict[str, Any]:
    """What this machine says of itself."""
    return {"arch": host.host_arch(), "features": sorted(host.host_features())}


def call(
    library: str,
    function: str,
    inputs: list[Any],
    output: str,
    shape: list[int],
    dtype: str,
    past: str | None,
) -> None:
    """Call a kernel; `inputs` are integers and names of array files, and `output` is the file to write.

    `past` names a file with what the output begins with, if that is a cache.
    """
    arguments = [
        value if isinstance(value, int) else tvm.runtime.tensor(np.ascontiguousarray(np.load(value)))
        for value in inputs
    ]
    start = np.full(shape, RUBBISH).astype(dtype)
    if past is not None:
        tokens = np.load(past)
        start[:, :, : tokens.shape[2]] = tokens
    result = tvm.runtime.tensor(start)
    _library(library)[function](*arguments, result)
    np.save(output, result.numpy())


def generate(
    folder: str, ids: list[list[int]], mask: list[list[int]], settings: dict[str, Any]
) -> list[list[int]]:
    """Tokens that a compiled folder gives."""
    tokens: list[list[int]] = _model(folder).generate(ids, mask, **settings).tolist()
    return tokens


def model(folder: str) -> str:
    """A compiled folder in a line."""
    return str(_model(folder))


def logits(
    folder: str, ids: list[list[int]], mask: list[list[int]], decoder: list[list[int]], output: str
) -> None:
    """Write the logits [T, B, V] that a compiled folder gives after each of T decoder tokens [B, T].

    A decoder-only model reads the ids before them, which gives T + 1 logits.
    """
    session = _model(folder).session(ids, mask)
    steps = [] if _model(folder).is_encoder_decoder else [np.asarray(ids)]
    steps += [np.ascontiguousarray(column) for column in np.asarray(decoder).T[:, :, None]]
    np.save(output, np.stack([session.step(tokens).copy() for tokens in steps]))


@lru_cache
def _library(path: str) -> Any:
    return tvm.runtime.load_module(path)


@lru_cache
def _model(folder: str) -> Any:
    return tbt_compile.load(folder)


REQUESTS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (describe, call, generate, model, logits)
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for; no error of it ends the process."""
    try:
        return {"result": REQUESTS[request.pop("do")](**request)}
    except Exception as error:
        traceback.print_exc()
        return {"error": type(error).__name__, "message": str(error)}


def main() -> None:
    """Answer until standard input ends."""
    # Whatever else is printed in this process goes to standard error, and not between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
