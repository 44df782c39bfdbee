"""A process that saves one model over and over: `python concurrent.py FOLDER COUNT FIRST [rename twice]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from tbt_compile.storage import exchange, model_folder


def main(path: str, count: int, first: int, how: str) -> None:
    if how == "rename twice":
        exchange.exchange = lambda *_: False
    if how == "file by file":
        os.chdir(path)
    for number in range(first, first + count):
        tensors = {"number": np.full(1000 + number, number, np.int64)}
        model_folder.write_folder(
            path, "frozen", {"number": number}, tensors, {"copy" + str(number % 3): Path(__file__)}
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
