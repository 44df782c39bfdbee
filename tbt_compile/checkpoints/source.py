"""Where the tensors of a checkpoint come from: safetensors files of transformers, or a GGUF file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from tbt_compile.adapters.checkpoint_files import read_generation, reason_of, weight_files
from tbt_compile.adapters.pretrained import read_config
from tbt_compile.dtypes import FLOATS, dtype_name
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

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._taken: set[str] = set()

    @property
    @abstractmethod
    def names(self) -> Iterable[str]:
        """The names of the tensors, as the model's parameters are named."""

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return sum(1 for _ in self.names)

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Read the tensor with a name in `names`."""

    def unread(self) -> list[str]:
        """The names of the tensors that `tensor` was not asked for."""
        return [name for name in self.names if name not in self._taken]

    def tensor(self, name: str) -> Tensor:
        """Read a tensor.

        Raises:
            FormatError: there is none of that name, the file is damaged, or the tensor has a dtype that is
                not supported, or a number that is not finite.
        """
        if name not in self.names:
            raise FormatError(f"{self.path} holds no {name}: expected the weights of the model in its config")
        self._taken.add(name)
        tensor = self.read(name)
        if tensor.is_floating_point() and tensor.dtype not in FLOATS:
            raise FormatError(
                f"{name} in {self.path} is {dtype_name(tensor.dtype)}: expected float32 or half precision"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{name} in {self.path} holds NaN or infinity: the checkpoint is damaged")
        return tensor

    def tied(self, names: list[str]) -> Tensor:
        """Read a tensor that has several names, of which the checkpoint may have any.

        Raises:
            FormatError: as `tensor`; or it has other values under another name.
        """
        present = [name for name in names if name in self.names] or names[:1]
        tensor = self.tensor(present[0])
        for other in present[1:]:
            if not torch.equal(self.tensor(other), tensor):
                raise FormatError(
                    f"{self.path} holds different values for {present[0]} and {other}, which its config "
                    "ties: set tie_word_embeddings to false in config.json if they are two weights"
                )
        return tensor


class SafetensorsCheckpoint(Checkpoint):
    """A folder with a config and safetensors files, or a cached repository of the hub."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        _check_place(self.path)
        try:
            self.config = read_config(path)
            files = weight_files(str(path))
            self._opened = ExitStack()
            handles = [self._opened.enter_context(safe_open(file, framework="pt")) for file in files]
        except FormatError:
            raise
        except (AttributeError, OSError, TypeError, ValueError, KeyError, SafetensorError) as error:
            raise FormatError(
                f"{path} cannot be read ({reason_of(error)}): expected a model that save_pretrained wrote, "
                "in safetensors files"
            ) from error
        if not handles:
            raise FormatError(
                f"{path} has no model.safetensors or {SAFE_WEIGHTS_INDEX_NAME}: save the model again with "
                "save_pretrained"
            )
        self._files: dict[str, Any] = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118
        self.generation = read_generation(str(path))

    @property
    def names(self) -> Iterable[str]:
        """The names in all files."""
        return self._files

    def read(self, name: str) -> Tensor:
        """Read a tensor from the file that has it."""
        try:
            tensor: Tensor = self._files[name].get_tensor(name)
        except (SafetensorError, ValueError) as error:
            raise FormatError(
                f"{name} in {self.path} cannot be read ({error}): the file is damaged"
            ) from error
        return tensor


def _check_place(path: Path) -> None:
    """Refuse what can be no folder of transformers and no repository, before the hub is asked."""
    if path.is_dir() and not (path / CONFIG_NAME).is_file():
        files = sorted(path.glob("*.gguf"))
        hint = f"name the file: {files[0]}" if files else f"expected a folder with {CONFIG_NAME}"
        raise FormatError(f"{path} holds no model of transformers: {hint}")
    if path.is_file() or (not path.exists() and (path.is_absolute() or len(path.parts) > 2)):
        found = "is a file" if path.is_file() else "does not exist"
        raise FormatError(f"{path} {found}: expected a folder with {CONFIG_NAME}, or a .gguf file")
