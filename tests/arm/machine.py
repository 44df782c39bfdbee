"""A running AArch64 machine: sends requests to `worker.py` on it and reads the answers."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from arm.environment import ROOT, Environment

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 240  # for one answer, the start included
PACKAGE = "tbt_compile"


class RemoteError(Exception):
    """An error on the machine.

    Attributes:
        kind: name of its class; "" when the whole process ended.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if kind else message)
        self.kind = kind


def variables(environment: Environment, folder: Path) -> dict[str, str]:
    """What a program on the machine needs in its environment: the path to the package and what it imports.

    `folder` gets a link to the package, so that nothing else of the repository is on the path. Nothing is
    written to the folders on the path.
    """
    package = folder / "path" / PACKAGE
    package.parent.mkdir(parents=True)
    package.symlink_to(ROOT / PACKAGE)
    path = [package.parent] if environment.site is None else [package.parent, environment.site]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "TVM_NUM_THREADS": "1",
    }


class Machine:
    """One emulated CPU (or this machine's own) with the worker running on it.

    Args:
        environment: where its Python is.
        cpu: QEMU's name of the CPU.
        folder: a new folder for everything that passes between the machines.

    Attributes:
        variables: what its programs need in their environment.
    """

    def __init__(self, environment: Environment, cpu: str, folder: Path) -> None:
        self.cpu = cpu
        self.folder = folder
        self._names = count()
        self.variables = variables(environment, folder)
        self._log = (folder / "stderr.txt").open("wb")
        self._worker = subprocess.Popen(
            [*environment.command(cpu), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **self.variables},
        )

    def describe(self) -> dict[str, Any]:
        """What the machine says of itself: "arch" and "features"."""
        described: dict[str, Any] = self._ask(do="describe")
        return described

    def call(
        self,
        library: Path,
        function: str,
        inputs: Sequence[Any],
        shape: Sequence[int],
        dtype: Any,
        past: np.ndarray | None = None,
    ) -> np.ndarray:
        """Run a kernel of a library on arrays and integers; returns its output, which begins with `past`."""
        sent = [value if isinstance(value, int) else self._send(value) for value in inputs]
        before = None if past is None else self._send(past)
        output = self.file(".npy")
        self._ask(
            do="call",
            library=str(library),
            function=function,
            inputs=sent,
            output=str(output),
            shape=list(shape),
            dtype=np.dtype(dtype).name,
            past=before,
        )
        for value in (*sent, before):
            if isinstance(value, str):
                Path(value).unlink()
        return self._received(output)

    def generate(self, folder: Path, ids: np.ndarray, mask: np.ndarray, **settings: Any) -> list[list[int]]:
        """Tokens that a compiled folder gives on the machine."""
        source = {"folder": str(folder), "ids": ids.tolist(), "mask": mask.tolist()}
        tokens: list[list[int]] = self._ask(do="generate", **source, settings=settings)
        return tokens

    def model(self, folder: Path) -> str:
        """What a compiled folder says of itself on the machine."""
        return str(self._ask(do="model", folder=str(folder)))

    def logits(self, folder: Path, ids: np.ndarray, mask: np.ndarray, decoder: np.ndarray) -> np.ndarray:
        """Logits [T, B, V] that a compiled folder gives on the machine after each decoder token [B, T]."""
        source = {"folder": str(folder), "ids": ids.tolist(), "mask": mask.tolist()}
        output = self.file(".npy")
        self._ask(do="logits", **source, decoder=decoder.tolist(), output=str(output))
        return self._received(output)

    def file(self, suffix: str) -> Path:
        """The name of a new file in the folder."""
        return self.folder / f"{next(self._names)}{suffix}"

    def close(self) -> None:
        """End the worker."""
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.kill()
        self._worker.wait()
        self._worker.stdin.close()
        self._worker.stdout.close()
        self._log.close()

    def _send(self, array: np.ndarray) -> str:
        name = self.file(".npy")
        np.save(name, array)
        return str(name)

    def _received(self, file: Path) -> np.ndarray:
        array = np.load(file)
        file.unlink()
        return array

    def _ask(self, **request: Any) -> Any:
        stdin, stdout = self._worker.stdin, self._worker.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        if not select.select([stdout], [], [], SECONDS)[0]:
            raise RemoteError("", f"{self.cpu} gave no answer within {SECONDS} s to {request['do']}")
        line = stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise RemoteError(answer["error"], answer["message"])
        return answer["result"]

    def _ended(self) -> RemoteError:
        code = self._worker.wait()
        printed = (self.folder / "stderr.txt").read_text(errors="replace")
        return RemoteError("", f"the worker on {self.cpu} ended with exit code {code}:\n{printed[-4000:]}")
