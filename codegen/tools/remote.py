"""Run and time compiled libraries on another machine through TVM's RPC server."""

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
"""The command that starts the server on the other machine, after `pip install 'apache-tvm[rpc]'` there."""
_TIMEOUT = 3600  # of a session, in seconds
_SERIES_MS = 20

Array = npt.NDArray[Any]


class Board:
    """A machine behind an RPC server.

    Args:
        address: "host:port".
        key: the key that the server was started with.

    Raises:
        TargetError: the address cannot be parsed, or no server with that key answers.
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
        """Upload a shared library and load it; indexing the result by name gives its functions."""
        self._session.upload(bytearray(library.read_bytes()), target=library.name)
        return self._session.load_module(library.name)

    def tensor(self, array: Array) -> Any:
        """Copy an array to the machine; `.numpy()` of the result copies it back."""
        return tvm.runtime.tensor(np.asarray(array, order="C"), self._cpu)

    def table(self, arrays: Sequence[Array]) -> Any:
        """Copy arrays to the machine. Returns their addresses in bytes relative to the result, int64 [n].

        All are in one allocation that begins with the result, since remote addresses are unknown here.
        """
        table = np.zeros(len(arrays), np.int64)
        pieces = [_padded(array) for array in (table, *arrays)]
        table[:] = np.cumsum([len(piece) for piece in pieces[:-1]])
        pieces[0] = _padded(table)
        return self.tensor(np.concatenate(pieces).view(np.int64))._create_view(table.shape, "int64")

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Allocate an uninitialised tensor on the machine."""
        return tvm.runtime.empty(tuple(shape), dtype, self._cpu)

    def use_threads(self, count: int) -> None:
        """Set the number of threads for all further calls."""
        self._session.get_function("runtime.config_threadpool")(0, count)

    def seconds(self, module: Any, function: str, arguments: Sequence[Any], repeats: int) -> list[float]:
        """Time a function on the machine itself.

        Args:
            module: the result of `load`.
            function: name of the function in the module.
            arguments: tensors on the machine.
            repeats: number of series of calls.

        Returns:
            For each series, the mean time of a call in seconds.
        """
        timed = module.time_evaluator(function, self._cpu, number=1, repeat=repeats, min_repeat_ms=_SERIES_MS)
        return [float(value) for value in timed(*arguments).results]


def _padded(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an array, padded with zeros to the alignment."""
    values = np.frombuffer(np.asarray(array, order="C").tobytes(), np.uint8)
    return np.pad(values, (0, -len(values) % ALIGNMENT))
