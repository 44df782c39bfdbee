"""Where the tensors of a checkpoint come from: safetensors files of transformers, or a GGUF file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from tbt_compile.adapters.pretrained import weight_files
from tbt_compile.errors import FormatError


class Checkpoint(ABC):
    """The config and tensors of a model, read one at a time.

    Attributes:
        path: what it was opened from.
        config: of the model.
        generation: settings of `generate`, if the checkpoint has them.
        input_floor: if inputs of layers with ternary weights have 8 bits per token, the least that the
            largest magnitude of a token counts as; None if they are not quantized, or the config says how.
    """

    path: Path
    config: PreTrainedConfig
    generation: GenerationConfig | None = None
    input_floor: float | None = None

    @property
    @abstractmethod
    def names(self) -> Iterable[str]:
        """The names of the tensors, as the model's parameters are named."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Read the tensor with a name in `names`."""

    def unread(self, used: set[str]) -> list[str]:
        """The names of the tensors that are not in `used`."""
        return [name for name in self.names if name not in used]

    def tensor(self, name: str) -> Tensor:
        """Read a tensor.

        Raises:
            FormatError: there is none of that name, or the file is damaged.
        """
        if name not in self.names:
            raise FormatError(f"{self.path} holds no {name}: expected the weights of the model in its config")
        return self.read(name)


class SafetensorsCheckpoint(Checkpoint):
    """A folder with a config and safetensors files, or a cached repository of the hub."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.config = AutoConfig.from_pretrained(path)
            files = weight_files(str(path))
            self._opened = ExitStack()
            handles = [self._opened.enter_context(safe_open(file, framework="pt")) for file in files]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".:")
            raise FormatError(
                f"{path} cannot be read ({reason}): expected a model that save_pretrained wrote, in "
                "safetensors files"
            ) from error
        if not handles:
            raise FormatError(f"{path} has no safetensors files: save the model again with save_pretrained")
        self._files: dict[str, Any] = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118
        try:
            self.generation = GenerationConfig.from_pretrained(path)
        except OSError:
            self.generation = None

    @property
    def names(self) -> Iterable[str]:
        """The names in all files."""
        return self._files

    def read(self, name: str) -> Tensor:
        """Read a tensor from the file that has it."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor
