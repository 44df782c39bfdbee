"""Compiled libraries on another machine, which runs TVM's RPC server; they are called and timed there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import rpc

from tbt_compile.codegen.tvm_api import tvm
from tbt_compile.errors import TargetError
from tbt_compile.storage.aligned import ALIGNMENT

START = "python -m tvm.exec.rpc_server --host 0.0.0.0 --port {port} --key {key}"
"""What starts the server on the other machine; it needs `pip install 'apache-tvm[rpc]'` there."""
_TIMEOUT = 3600  # seconds of a session
_SERIES_MS = 20

Array = npt.NDArray[Any]


class Board:
    """A machine behind an RPC server.

    Args:
        address: "host:port".
        key: the name that the server was started with.

    Raises:
        TargetError: the address cannot be read, or no server with that key answers.
    """

    def __init__(self, address: str, key: str) -> None:
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise TargetError(
                f"address {address!r} of the board: expected HOST:PORT, such as 192.168.1.9:9090"
            )
        try:
            self._session = rpc.connect(host, int(port), key, session_timeout=_TIMEOUT)
        except (OSError, RuntimeError) as error:
            start = START.format(port=port, key=key)
            reason = str(error).strip().splitlines()[-1]
            raise TargetError(
                f"no RPC server with the key {key!r} answers at {address} ({reason}); start it there with "
                f"`{start}`"
            ) from error
        self._cpu = self._session.cpu(0)

    def load(self, library: Path) -> Any:
        """Send a shared library; its functions by name."""
        self._session.upload(bytearray(library.read_bytes()), target=library.name)
        return self._session.load_module(library.name)

    def tensor(self, array: Array) -> Any:
        """A tensor in the machine's memory with a copy of the values; `.numpy()` brings it back."""
        return tvm.runtime.tensor(np.asarray(array, order="C"), self._cpu)

    def table(self, arrays: Sequence[Array]) -> Any:
        """Arrays in the machine's memory, and where each begins in bytes from the result, int64 [number].

        All are one piece of memory that begins with the result: nobody here knows addresses over there.
        """
        table = np.zeros(len(arrays), np.int64)
        pieces = [_padded(array) for array in (table, *arrays)]
        table[:] = np.cumsum([len(piece) for piece in pieces[:-1]])
        pieces[0] = _padded(table)
        return self.tensor(np.concatenate(pieces).view(np.int64))._create_view(table.shape, "int64")

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """A tensor in the machine's memory that holds anything."""
        return tvm.runtime.empty(tuple(shape), dtype, self._cpu)

    def use_threads(self, count: int) -> None:
        """Threads for every kernel from now on."""
        self._session.get_function("runtime.config_threadpool")(0, count)

    def seconds(self, module: Any, function: str, arguments: Sequence[Any], repeats: int) -> list[float]:
        """How long a function takes, measured on the machine itself.

        Args:
            module: what `load` returned.
            function: its name there.
            arguments: tensors on the machine.
            repeats: series of calls.

        Returns:
            The mean time of a call in every series.
        """
        timed = module.time_evaluator(function, self._cpu, number=1, repeat=repeats, min_repeat_ms=_SERIES_MS)
        return [float(value) for value in timed(*arguments).results]


def _padded(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an array, and zeros until the next one may begin."""
    values = np.frombuffer(np.asarray(array, order="C").tobytes(), np.uint8)
    return np.pad(values, (0, -len(values) % ALIGNMENT))
