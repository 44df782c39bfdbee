"""The quantizer "tbt" of transformers: `from_pretrained` gives prepared and frozen models.

With `quantization_config=TbtConfig("2-2-2")` a full-precision checkpoint is loaded and prepared. The folder
of a prepared model is loaded and prepared with its recipe, and gets its scales back: it trains on, and is
as ordinary a model as one that `prepare` returned. The folder of a frozen model is loaded into packed
quantizers, without memory for float weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.adapters.quantization_config import TbtConfig, set_quantization
from tbt_compile.checkpoints.kinds import METHOD
from tbt_compile.errors import FormatError, PlanError
from tbt_compile.preparation import prepare
from tbt_compile.storage import model_folder
from tbt_compile.storage.frozen_folder import unique_tensors
from tbt_compile.storage.frozen_quantizers import install_quantizers, owner_of

_QUANTIZER_STATE = r"(^|\.)(input_quantizer|weight_quantizer|tbt_attention|tbt_calls)\."


class TbtHfQuantizer(HfQuantizer):
    """Prepares a model after its weights are loaded, or builds a frozen one before."""

    quantization_config: TbtConfig
    pre_quantized: bool

    @property
    def frozen(self) -> dict[str, Any] | None:
        """The description of the packed tensors to load; None if the model is to be prepared."""
        return self.quantization_config.frozen

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Check the arguments of `from_pretrained`.

        Raises:
            FormatError: a description of packed tensors was passed with a full-precision checkpoint.
        """
        del args, kwargs
        if self.frozen is not None and not self.pre_quantized:
            raise FormatError(
                "quantization_config describes the packed tensors of a frozen model, but the checkpoint "
                f"holds none: expected TbtConfig({self.quantization_config.recipe.notation!r})"
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Keep the dtype of a model to prepare; a frozen one computes in float32.

        Raises:
            FormatError: another dtype was asked for a frozen model.
        """
        if self.frozen is not None and dtype is not torch.float32:
            raise FormatError(f"dtype={dtype}: frozen models compute in float32; leave dtype out")
        return dtype

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, **_options: Any
    ) -> None:
        ignored = set(model._keys_to_ignore_on_load_unexpected or ())  # type: ignore[arg-type]
        if self.frozen is None:
            model._keys_to_ignore_on_load_unexpected = ignored | {_QUANTIZER_STATE}  # type: ignore[assignment]
            return
        if self.frozen["calls"]:
            raise FormatError(
                f"{type(model).__name__} makes products outside of its layers, which only tbt_compile.load "
                "can build from packed tensors: load a folder that FrozenModel.save wrote with it"
            )
        _check_class(model, self.frozen["quantizers"])
        install_quantizers(model, self.quantization_config.recipe, self.frozen["quantizers"], {})
        parameters = dict(model.named_parameters(remove_duplicate=False))
        tied = {name: first for name, first in self.frozen["tied"].items() if name in parameters}
        model.all_tied_weights_keys = tied  # type: ignore[assignment]
        derived = {re.escape(name) for name in self.frozen["derived"]}
        model._keys_to_ignore_on_load_unexpected = ignored | derived  # type: ignore[assignment]
        for file in checkpoint_files or ():
            _check_folder(Path(file))
        _check_complete(model, tied, checkpoint_files or [])

    def _process_model_after_weight_loading(self, model: nn.Module, **_options: Any) -> nn.Module:
        del model._keys_to_ignore_on_load_unexpected  # that of its class is left
        if self.frozen is not None:
            adapter_for(model).finish_frozen(model, self.quantization_config.recipe, self.frozen)
            call_record.restore(model, self.frozen["inputs"])
            return model.requires_grad_(False)
        devices = {str(device) for device in getattr(model, "hf_device_map", {}).values()}
        if len(devices) > 1:
            raise PlanError(
                f"this {type(model).__name__} was spread over {', '.join(sorted(devices))}, where it cannot "
                "be captured: load it on one device, or shard it after it is prepared"
            )
        # From here on it is an ordinary model: its weights are floats, which train and may be converted.
        del model.hf_quantizer, model.quantization_method
        model.is_quantized = False  # type: ignore[assignment]
        if not self.pre_quantized:
            set_quantization(model.config, None)
        return prepare(model, self.quantization_config.recipe)

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """The tensors of a frozen model, tied ones once, and metadata of the file."""
        persistent = model.state_dict()
        return {name: tensor for name, tensor in unique_tensors(model)[0].items() if name in persistent}, {}

    def is_serializable(self) -> bool:
        """Whether `save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether a model that keeps this quantizer trains: a frozen one does not."""
        return False


def _check_folder(file: Path) -> None:
    """Check the folder of a file of tensors that `FrozenModel.save` wrote, if it is one."""
    saved = model_folder.KINDS[model_folder.FROZEN].tensors
    if file.name == saved and (file.parent / model_folder.MANIFEST).is_file():
        model_folder.read_manifest(file.parent, model_folder.FROZEN)


def _check_class(model: nn.Module, described: list[dict[str, Any]]) -> None:
    """Refuse a model that lacks layers of the frozen one, such as that without its head.

    Raises:
        FormatError: it does.
    """
    present = {name for name, _ in model.named_modules()}
    missing = [owner for entry in described if (owner := owner_of(entry)) not in present]
    if missing:
        saved, name = getattr(model.config, "architectures", None) or ["another class"], type(model).__name__
        raise FormatError(
            f"the packed tensors are those of a {saved[0]}, and {name} has no {missing[0]}: load it by "
            f"{saved[0]}.from_pretrained, or the Auto class for it"
        )


def _check_complete(model: nn.Module, tied: dict[str, str], files: list[str]) -> None:
    """Refuse files that lack a tensor of a frozen model: transformers would draw it at random.

    Raises:
        FormatError: a tensor is missing, or a file is damaged.
    """
    found: set[str] = set()
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                found.update(file.keys())
        except SafetensorError as error:
            raise FormatError(f"{path} is damaged ({error}): save the model again") from error
    missing = sorted(name for name in model.state_dict() if tied.get(name, name) not in found)
    if missing and files:
        raise FormatError(
            f"{Path(files[0]).parent} holds a frozen {type(model).__name__} without {missing[0]}: expected "
            "all of its tensors; save the model again"
        )


register_quantization_config(METHOD)(TbtConfig)
register_quantizer(METHOD)(TbtHfQuantizer)
