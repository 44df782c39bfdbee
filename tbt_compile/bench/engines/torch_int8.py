"""PyTorch's dynamic quantization: int8 weights of linear layers, activations quantized at run time."""

from __future__ import annotations

import io
import warnings
from typing import IO, Any, cast

from tbt_compile.bench.engines.torch_float import TorchRunner, available
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import get_shape, random_model

__all__ = ["available", "build", "load"]


class _ByteCounter(io.RawIOBase):
    """A file that only counts the bytes written to it."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        self.count += size
        return size


def build(job: Job) -> None:
    """Do nothing: quantizing takes a second."""


def quantize_linears(model: Any) -> Any:
    """Quantize every `nn.Linear` of a module in place; returns the module."""
    import torch

    with warnings.catch_warnings():
        # PyTorch warns that this API will move to another package.
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(
            model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
        )


def load(job: Job) -> TorchRunner:
    """Make and quantize the model."""
    import torch

    model = quantize_linears(random_model(get_shape(job.shape)))
    file = _ByteCounter()
    torch.save(model.state_dict(), cast(IO[bytes], file))
    return TorchRunner(model, job, file.count)
