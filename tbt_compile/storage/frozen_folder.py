"""Saving frozen models to folders and loading them without allocating their float weights."""

from __future__ import annotations

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
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError
from tbt_compile.modules import evaluation_mode, is_prepared, iter_quantized
from tbt_compile.modules.attention import CHILD, QuantizedAttention
from tbt_compile.modules.calls import QuantizedProductCall, QuantizedSdpaCall
from tbt_compile.modules.computed_weights import compute_weights
from tbt_compile.modules.exported_mode import follow_mode
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight, drop_float_weights, is_placeholder
from tbt_compile.modules.interception import CALLS, Calls, split_call
from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.insert_quantizers import build_activation_quantizer
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.passes.prepare.site_plan import Operand, SitePlan
from tbt_compile.passes.prepare.sites import SiteKind
from tbt_compile.passes.prepare.write_back import WriteBack
from tbt_compile.quantizers import WeightQuantizer
from tbt_compile.recipe import Recipe
from tbt_compile.storage import model_folder
from tbt_compile.storage.os_errors import writing

CONFIG = "config.json"
GENERATION = "generation_config.json"
SUFFIX = "_quantizer"


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
    tensors, tied = _unique_tensors(module)
    manifest = {
        "recipe": recipe.to_dict(),
        "class": type(module).__name__.removeprefix("Quantized"),
        "dtype": described(dtypes),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "quantizers": describe_quantizers(module),
        "calls": describe_calls(module),
        "tied": tied,
        "derived": _derived(module),
        "inputs": call_record.recorded(module),
    }
    with writing(path), tempfile.TemporaryDirectory() as work:
        configs: list[Any] = [getattr(module, name, None) for name in ("config", "generation_config")]
        for part in (*configs, tokenizer):
            if hasattr(part, "save_pretrained"):
                part.save_pretrained(work)
        files = {file.relative_to(work).as_posix(): file for file in Path(work).rglob("*") if file.is_file()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        return model_folder.write_folder(path, model_folder.FROZEN, manifest, arrays, files)


def load_frozen(path: Path, model: Any = None) -> tuple[nn.Module, Recipe, list[str]]:
    """Load a frozen module.

    Args:
        path: a folder written by `save_frozen`.
        model: for models outside transformers, an instance of the same class and sizes to load into, in
            place; or the same exported program.

    Returns:
        The module in eval mode, the recipe that it was prepared with, and the dtypes of its checkpoint.

    Raises:
        FormatError: the folder is missing or damaged, or does not fit the model.
    """

    if isinstance(model, ExportedProgram):
        model = model.module()
    if model is not None and not isinstance(model, nn.Module):
        raise FormatError(f"model is {model!r}: expected an instance of the class that {path} was saved from")

    def read() -> tuple[dict[str, Any], dict[str, Any], nn.Module]:
        manifest = model_folder.read_manifest(path, model_folder.FROZEN)
        place = model if model is not None else _empty_model(path, manifest["class"])
        return manifest, model_folder.read_tensors(path, manifest), place

    manifest, arrays, model = model_folder.read_whole(path, read)
    recipe = Recipe.from_dict(manifest["recipe"])
    model = unwrapped(model)
    follow_mode(model)
    _check_instance(model, manifest["quantizers"], path)
    if manifest.get("calls"):
        _run_once(model, manifest.get("inputs"))
    _install_quantizers(model, recipe, manifest["quantizers"], manifest.get("calls", {}))
    _make_room(model, arrays, manifest.get("derived", []))
    _load_tensors(model, arrays, manifest["tied"], path)
    call_record.restore(model, manifest.get("inputs"))
    dtypes = manifest.get("dtype", described([COMPUTATION]))["checkpoint"]  # older folders: float32 only
    return evaluation_mode(model).requires_grad_(False), recipe, dtypes


def describe_quantizers(model: nn.Module) -> list[dict[str, Any]]:
    """Describe every quantized module with the encodings of its operands, as JSON-ready values."""
    described = []
    for name, module in iter_quantized(model):
        operands: dict[str, dict[str, Any]] = {}
        for child, quantizer in module.named_children():
            encoding = getattr(quantizer, "encoding", None)
            if isinstance(quantizer, FrozenWeight):
                rows = quantizer.scale.shape[0]
                shape = [rows, quantizer.columns]
                operands[child] = {"encoding": quantizer.encoding.value, "shape": shape}
            elif isinstance(quantizer, FrozenActivation):
                operands[child] = {"encoding": quantizer.encoding.value, "center": quantizer.center}
            elif isinstance(encoding, Encoding):
                operands[child] = {"encoding": encoding.value}
        described.append({"module": name, "kind": _kind(module).value, "operands": operands})
    return described


def describe_calls(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The product calls of every module that makes quantized ones, and the plans of those, by module name."""
    return {
        name.removesuffix(CALLS).removesuffix("."): {"names": list(module.names), "sites": module.sites}
        for name, module in model.named_modules()
        if isinstance(module, Calls)
    }


def _kind(module: nn.Module) -> SiteKind:
    if isinstance(module, QuantizedAttention | QuantizedProductCall | QuantizedSdpaCall):
        return SiteKind.ATTENTION
    return SiteKind.LINEAR if hasattr(module, "input_quantizer") else SiteKind.EMBEDDING


def _owner(entry: dict[str, Any]) -> str:
    """Dotted name of the user's module in an entry of `describe_quantizers`."""
    return f".{entry['module']}".removesuffix(f".{CHILD}").removeprefix(".")


def _check_instance(model: nn.Module, described: list[dict[str, Any]], path: Path) -> None:
    name = type(model).__name__
    if is_prepared(model):
        raise FormatError(f"the {name} to load {path} into has quantizers: pass one in full precision")
    present = {module for module, _ in model.named_modules()}
    owners = [call[0] if (call := split_call(entry["module"])) else _owner(entry) for entry in described]
    missing = [owner for owner in owners if owner not in present]
    if missing:
        raise FormatError(f"{path} does not fit the model: {name} has no module {missing[0]!r}")


def _install_quantizers(
    model: nn.Module, recipe: Recipe, described: list[dict[str, Any]], calls: dict[str, dict[str, Any]]
) -> None:
    """Convert the modules as `prepare` does, but with uninitialized frozen quantizers."""
    quantizers: dict[tuple[str, str], nn.Module] = {}
    sites = [SitePlan.from_dict(values) for owned in calls.values() for values in owned["sites"]]
    called = {(site.owner, call.number): site for site in sites for call in site.calls}
    for entry in described:
        call = split_call(entry["module"])
        kind = SiteKind(entry["kind"])
        fqn = called[call].fqn if call else _owner(entry)
        operands = []
        for child, values in entry["operands"].items():
            operand = child if kind is SiteKind.ATTENTION else child.removesuffix(SUFFIX)
            encoding = Encoding(values["encoding"])
            operands.append(Operand(operand, encoding, "as saved"))
            quantizers[fqn, operand] = _empty_quantizer(encoding, values, recipe, operand)
        if not call:
            sites.append(SitePlan(kind, fqn, tuple(operands)))
    plan = QuantPlan(type(model).__name__, recipe, tuple(sites), ())
    names = {owner: tuple(owned["names"]) for owner, owned in calls.items()}
    context = PrepareContext(
        model, recipe, adapter_for(model), plan=plan, calls={**names}, quantizers=quantizers
    )
    WriteBack().apply(context)
    compute_weights(model)
    drop_float_weights(model)


def _empty_quantizer(encoding: Encoding, values: dict[str, Any], recipe: Recipe, operand: str) -> nn.Module:
    if "shape" in values:
        return FrozenWeight.empty(encoding, *values["shape"])
    if "center" in values:
        return FrozenActivation(encoding, values["center"], torch.ones(()))
    if operand == "weight":
        return WeightQuantizer(encoding)  # not quantized: other weights have a packed shape
    return build_activation_quantizer(encoding, recipe)


def _empty_model(path: Path, name: str) -> nn.Module:
    """Make a transformers model of the saved class with uninitialized weights."""
    import transformers

    if not (path / CONFIG).is_file():
        raise FormatError(
            f"{path} holds a {name} that is not a transformers model: pass an instance, load(path, model=...)"
        )
    kind = getattr(transformers, name, None)
    if kind is None:
        raise FormatError(
            f"{path} holds a {name}, which transformers {transformers.__version__} does not have"
        )
    config = kind.config_class.from_pretrained(path)
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


def _unique_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
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
