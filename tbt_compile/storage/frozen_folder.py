"""Saving frozen models to folders and loading them without allocating their float weights."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.dtypes import COMPUTATION, described
from tbt_compile.errors import FormatError
from tbt_compile.modules import evaluation_mode, is_prepared
from tbt_compile.modules.exported_mode import follow_mode
from tbt_compile.modules.frozen import is_placeholder
from tbt_compile.modules.interception import split_call
from tbt_compile.recipe import Recipe
from tbt_compile.storage import manifest_fields, model_folder
from tbt_compile.storage.checksums import ALL, Checks
from tbt_compile.storage.frozen_quantizers import (
    describe_calls,
    describe_quantizers,
    install_quantizers,
    owner_of,
)
from tbt_compile.storage.os_errors import writing

CONFIG = "config.json"
GENERATION = "generation_config.json"
TENSORS = "transformers_weights"  # the field of a config that names the file of tensors


def save_frozen(module: nn.Module, recipe: Recipe, dtypes: list[str], path: Path, tokenizer: Any) -> Path:
    """Write a frozen module to a folder.

    Args:
        module: a module with frozen quantizers.
        recipe: the recipe that it was prepared with.
        dtypes: of the checkpoint.
        path: the folder; a saved model there is replaced.
        tokenizer: a transformers tokenizer to store with the model, or None.

    Returns:
        The folder.

    Raises:
        FormatError: `path` exists and is not a model folder, or holds files that do not belong to it.
        WriteError: the system refuses: no space, no permission, a bad path.
    """
    model_folder.require_replaceable(path)
    tensors, _ = unique_tensors(module)
    manifest = {
        "recipe": recipe.to_dict(),
        "class": type(module).__name__.removeprefix("Quantized"),
        "dtype": described(dtypes),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        **describe_frozen(module),
    }
    with writing(path), tempfile.TemporaryDirectory() as work:
        configs: list[Any] = [getattr(module, name, None) for name in ("config", "generation_config")]
        for part in (*configs, tokenizer):
            if hasattr(part, "save_pretrained"):
                part.save_pretrained(work)
        _name_tensors(Path(work) / CONFIG)
        files = {file.relative_to(work).as_posix(): file for file in Path(work).rglob("*") if file.is_file()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        return model_folder.write_folder(path, model_folder.FROZEN, manifest, arrays, files)


def describe_frozen(module: nn.Module) -> dict[str, Any]:
    """Describe the tensors and quantizers of a frozen module, as JSON-ready values.

    Returns:
        "quantizers" and "calls" as `frozen_quantizers` describes them; "tied", the first name of every other
        name of a tensor; "derived", the buffers that no state dict holds; "inputs", the recorded call.
    """
    return {
        "quantizers": describe_quantizers(module),
        "calls": describe_calls(module),
        "tied": unique_tensors(module)[1],
        "derived": _derived(module),
        "inputs": call_record.recorded(module),
    }


def _name_tensors(config: Path) -> None:
    """Tell transformers which file has the tensors; `save_pretrained` of a config drops that field."""
    if config.is_file():
        fields = json.loads(config.read_text(encoding="utf-8"))
        fields[TENSORS] = model_folder.KINDS[model_folder.FROZEN].tensors
        config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_frozen(path: Path, model: Any = None, checks: Checks = ALL) -> tuple[nn.Module, Recipe, list[str]]:
    """Load a frozen module.

    Args:
        path: a folder written by `save_frozen`.
        model: for models outside transformers, an instance of the same class and sizes to load into, in
            place; or the same exported program.
        checks: what of the files is compared.

    Returns:
        The module in eval mode, the recipe that it was prepared with, and the dtypes of its checkpoint.

    Raises:
        FormatError: the folder is missing or damaged, or does not fit the model.
    """

    if isinstance(model, ExportedProgram):
        model = model.module()
    if model is not None and not isinstance(model, nn.Module):
        raise FormatError(f"model is {model!r}: expected an instance of the class that {path} was saved from")

    _check_unmixed(path)

    def read() -> tuple[dict[str, Any], dict[str, Any], nn.Module]:
        manifest = model_folder.read_manifest(path, model_folder.FROZEN, checks)
        model_folder.require_fields(path, manifest, manifest_fields.FROZEN)
        place = model if model is not None else _empty_model(path, manifest["class"])
        return manifest, model_folder.read_tensors(path, manifest), place

    manifest, arrays, model = model_folder.read_whole(path, read)
    recipe = Recipe.from_dict(manifest["recipe"])
    model = unwrapped(model)
    follow_mode(model)
    _check_instance(model, manifest["quantizers"], path)
    if manifest.get("calls"):
        _run_once(model, manifest.get("inputs"))
    try:
        install_quantizers(model, recipe, manifest["quantizers"], manifest.get("calls", {}))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not fit the model: its quantizers have no place ({error})") from error
    _make_room(model, arrays, manifest.get("derived", []))
    _load_tensors(model, arrays, manifest["tied"], path)
    call_record.restore(model, manifest.get("inputs"))
    dtypes = manifest.get("dtype", described([COMPUTATION]))["checkpoint"]  # older folders: float32 only
    return evaluation_mode(model).requires_grad_(False), recipe, dtypes


def _check_unmixed(path: Path) -> None:
    """Refuse a folder that `save_pretrained` wrote into later: the config is then that of other tensors."""
    other = sorted(file.name for file in path.glob("model*.safetensors"))
    if other and (path / model_folder.MANIFEST).is_file():
        raise FormatError(
            f"save_pretrained of transformers wrote {other[0]} over the frozen model in {path}: load that by "
            "from_pretrained of transformers, and save a frozen model to a folder of its own"
        )


def _check_instance(model: nn.Module, described: list[dict[str, Any]], path: Path) -> None:
    name = type(model).__name__
    if is_prepared(model):
        raise FormatError(f"the {name} to load {path} into has quantizers: pass one in full precision")
    present = {module for module, _ in model.named_modules()}
    owners = [call[0] if (call := split_call(entry["module"])) else owner_of(entry) for entry in described]
    missing = [owner for owner in owners if owner not in present]
    if missing:
        raise FormatError(f"{path} does not fit the model: {name} has no module {missing[0]!r}")


def _empty_model(path: Path, name: str) -> nn.Module:
    """Make a transformers model of the saved class with uninitialized weights."""
    import transformers

    if not (path / CONFIG).is_file():
        raise FormatError(
            f"{path} holds a {name} that is not a transformers model: pass an instance, load(path, model=...)"
        )
    kind: Any = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise FormatError(
            f"{path} holds a {name}, which transformers {transformers.__version__} does not have"
        )
    config: Any = kind.config_class.from_pretrained(path)  # type: ignore[attr-defined]
    config.__dict__.pop(TENSORS, None)
    with torch.device("meta"):
        model = kind(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    if (path / GENERATION).is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(path)
    return model


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers, tied tensors under each of their names."""
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in named.items() if not is_placeholder(tensor)}


def unique_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, and a map from every other name of a tied tensor to its first name."""
    unique: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in _named_tensors(model).items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            tied[name] = first[place]
        else:
            first[place] = name
            unique[name] = tensor
    return unique, tied


def _derived(model: nn.Module) -> list[str]:
    """The buffers that the state dict leaves out: some modules make or resize them when they are called."""
    return [
        f"{name}.{buffer}".removeprefix(".")
        for name, module in model.named_modules()
        for buffer, value in module.named_buffers(recurse=False, remove_duplicate=False)
        if buffer in module._non_persistent_buffers_set and not is_placeholder(value)
    ]


def _run_once(model: nn.Module, inputs: call_record.Record | None) -> None:
    """Let a model fill its caches, by products that later runs do not make: quantized calls are numbered."""
    call_record.restore(model, inputs)
    evaluation_mode(model)
    with torch.no_grad(), suppress(Exception):  # a model without data cannot run, and has no caches either
        call_record.call_by_name(model, adapter_for(model).example_call(model))


def _make_room(model: nn.Module, arrays: dict[str, Any], derived: list[str]) -> None:
    """Give a model that was never called the derived buffers of the stored one, where it has the module."""
    modules = dict(model.named_modules())
    for name in derived:
        owner, _, attribute = name.rpartition(".")
        if name in arrays and owner in modules and attribute not in modules[owner]._parameters:
            room = torch.empty(arrays[name].shape)
            modules[owner].register_buffer(attribute, room, persistent=False)


def _load_tensors(model: nn.Module, arrays: dict[str, Any], tied: dict[str, str], path: Path) -> None:
    """Replace the model's tensors by the stored ones; tied tensors stay tied."""
    loaded = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    parameters: dict[str, nn.Parameter] = {}
    named = _named_tensors(model)
    unused = loaded.keys() - {tied.get(name, name) for name in named}
    if unused:
        raise FormatError(f"{path} does not fit the model: it has no place for {min(unused)}")
    for name, present in named.items():
        stored = tied.get(name, name)
        if stored not in loaded or loaded[stored].shape != present.shape:
            found = list(loaded[stored].shape) if stored in loaded else "nothing"
            raise FormatError(
                f"{path} does not fit the model: {name} should be {list(present.shape)}, and the folder has "
                f"{found}"
            )
        owner_name, _, attribute = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if isinstance(present, nn.Parameter):
            parameters.setdefault(stored, nn.Parameter(loaded[stored], requires_grad=False))
            owner.register_parameter(attribute, parameters[stored])
        else:
            setattr(owner, attribute, loaded[stored])
