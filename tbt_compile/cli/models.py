"""Opening of model folders for the commands, at any stage from checkpoint to compiled library."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbt_compile.checkpoints.kinds import PACKED, PREPARED, is_gguf, kind_of
from tbt_compile.errors import DataError, FormatError, RecipeError
from tbt_compile.storage import model_folder

_LONGEST_SOURCE = 512


def stage_of(folder: Path) -> str:
    """The stage of the model in a folder.

    Returns:
        A kind of `storage.model_folder`, "prepared" (trained with quantizers), "ternary" (a GGUF file, or a
        folder with packed weights) or "float".

    Raises:
        FormatError: there is no such folder or file, or no model in it.
    """
    if is_gguf(folder):
        return "ternary"
    if not os.path.isdir(folder):
        raise FormatError(
            f"there is no folder {folder}: expected one that `tbt train`, `tbt lower` or `save_pretrained` "
            "wrote, or a .gguf file"
        )
    if (folder / model_folder.MANIFEST).is_file():
        return model_folder.peek_kind(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FormatError(f"{folder} holds no model: expected {model_folder.MANIFEST} or config.json in it")
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{config} is damaged ({error}): save the model again") from error
    kind = kind_of(fields)
    if kind is not None:
        return "ternary" if kind == PACKED else kind
    return "ternary" if "quantization_config" in fields else "float"


def open_model(folder: Path, of_any_kind: bool = False) -> Any:
    """Open the model in a folder, ready to generate.

    Args:
        folder: of a model at any stage.
        of_any_kind: whether it may also be one in PyTorch that generates no text.

    Raises:
        FormatError: the folder holds no model, or a damaged one.
        TargetError: the model was compiled for another machine.
    """
    stage = stage_of(folder)
    if stage == model_folder.MODULE:
        raise FormatError(f"{folder} holds a module that does not generate text: call it in Python")
    if stage in (model_folder.FROZEN, model_folder.GENERATOR):
        import tbt_compile

        if stage == model_folder.FROZEN and not (folder / "config.json").is_file():
            name = model_folder.read_manifest(folder)["class"]
            raise FormatError(
                f"{folder} holds a {name}, a plain module whose class is in your code: lower it from Python "
                f"with tbt_compile.lower(tbt_compile.load({str(folder)!r}, model={name}(...)))"
            )
        return tbt_compile.load(folder)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if stage == "ternary":
        import tbt_compile

        return tbt_compile.from_pretrained(folder)
    if stage == PREPARED:
        from tbt_compile.preparation import load_prepared

        return load_prepared(folder).eval()
    from tbt_compile.adapters.pretrained import load_generator, load_pretrained

    return load_pretrained(folder) if of_any_kind else load_generator(folder)


def describable(folder: Path, recipe: str | None) -> Any:
    """Open the model in a folder to describe it; a compiled one may be for another machine.

    Args:
        folder: of a model at any stage.
        recipe: for a full-precision checkpoint, which it is prepared with; else None.

    Raises:
        FormatError: the folder holds no model, or a damaged one.
        RecipeError: there is a recipe, and the model has one already.
    """
    stage = stage_of(folder)
    if recipe is not None and stage != "float":
        raise RecipeError(f"--recipe {recipe} cannot be applied: {folder} has a recipe already; leave it out")
    if stage in (model_folder.GENERATOR, model_folder.MODULE):
        from tbt_compile.runtime.without_torch import hide_torch

        hide_torch()
        from tbt_compile.runtime.compiled_model import CompiledModel
        from tbt_compile.runtime.compiled_module import CompiledModule

        return (CompiledModel if stage == model_folder.GENERATOR else CompiledModule).read(folder)
    model = open_model(folder)
    if recipe is None:
        return model
    import tbt_compile

    return tbt_compile.prepare(model, recipe=recipe)


def open_for_lowering(source: Path, recipe: str | None, bits: dict[str, int | None]) -> Any:
    """Open a frozen or prepared model, or one with ternary weights, or quantize a full-precision one.

    Args:
        source: folder of the model, or a GGUF file.
        recipe: for a full-precision checkpoint; None for a model that has a recipe.
        bits: the arguments of `from_pretrained`; None where not given.

    Raises:
        FormatError: the folder holds no model, or a compiled one.
        RecipeError: the recipe is missing for a full-precision checkpoint, or given for another model; bits
            are given for a model with a recipe.
    """
    stage = stage_of(source)
    given = [name for name, value in bits.items() if value is not None]
    if stage in (model_folder.GENERATOR, model_folder.MODULE):
        raise FormatError(f"{source} is compiled already; name the folder that it was compiled from")
    if stage == "float" and recipe is not None and not given:
        return _quantize_untrained(open_model(source), recipe)
    if stage in ("float", "ternary") and recipe is None:
        return _with_ternary_weights(source, bits)
    if given:
        option = "--" + given[0].replace("_", "-")
        raise RecipeError(f"{option} cannot be applied: {source} has a recipe, or gets one; leave it out")
    if recipe is not None:
        raise RecipeError(f"--recipe {recipe} cannot be applied: {source} has a recipe already; leave it out")
    return open_model(source)


def _with_ternary_weights(source: Path, bits: dict[str, int | None]) -> Any:
    import tbt_compile
    from tbt_compile.checkpoints.loading import NoTernaryWeightsError

    try:
        return tbt_compile.from_pretrained(source, **bits)
    except NoTernaryWeightsError as error:
        raise RecipeError(
            f"{source} is a full-precision model: train it with `tbt train --recipe`, or add --recipe here "
            "to quantize it without training (its text will be poor)"
        ) from error


def tokenizer_of(source: Path) -> Any | None:
    """The tokenizer saved in a model's folder, or in a GGUF file, if there is one."""
    if is_gguf(source):
        from tbt_compile.checkpoints.gguf_file import tokenizer

        return tokenizer(source)
    if not (source / "tokenizer.json").is_file():
        return None
    from tbt_compile.data.tokenization import load_tokenizer

    return load_tokenizer(source)


@dataclass(frozen=True)
class Processor:
    """A tokenizer and a feature extractor, saved together."""

    tokenizer: Any
    extractor: Any

    def save_pretrained(self, folder: Path) -> None:
        """Write the files of both."""
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def processor_of(source: Path, tokenizer: Any | None) -> Any | None:
    """What is stored with the compiled model of a folder: its tokenizer, and with it a feature extractor."""
    if tokenizer is None or is_gguf(source):
        return tokenizer
    from tbt_compile.data.recordings import feature_extractor

    extractor = feature_extractor(source)
    return tokenizer if extractor is None else Processor(tokenizer, extractor)


def tokens_of(texts: Path, tokenizer: Any | None) -> list[int]:
    """The ids of all tokens in a text file, sorted.

    Raises:
        DataError: the file cannot be read or is empty.
        FormatError: there is no tokenizer.
    """
    if tokenizer is None:
        raise FormatError(f"cannot tokenize {texts}: the model's folder has no tokenizer.json")
    try:
        lines = texts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{texts} cannot be read ({error}): expected a text file in UTF-8") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{texts} is empty: expected one text per line, such as the model should write")
    return sorted({token for ids in tokenizer(lines).input_ids for token in ids})


def prompt_template(model: Any, text: str | None) -> Any:
    """The template of the prompts of a decoder-only model; None for a model with an encoder.

    Args:
        model: what `open_model` returned.
        text: with `{source}` in it, and `\\n` for new lines; None: the chat template of the tokenizer.
    """
    from tbt_compile.data.prompts import PromptTemplate

    described = getattr(model, "module", model)
    described = getattr(described, "config", described)
    if text is None and getattr(described, "is_encoder_decoder", True):
        return None
    return PromptTemplate(None if text is None else text.replace("\\n", "\n"))


def dynamic_lengths(model: Any) -> Any:
    """The dimensions, besides the batch, in which a compiled model is free: tokens of what is not generated.

    Returns:
        `dynamic_shapes` of `tbt_compile.lower` for a model that reads token ids and generates no text, such
        as a classifier; else None.
    """
    from torch.export import Dim
    from transformers import PreTrainedModel

    inner = getattr(model, "module", model)
    if not isinstance(inner, PreTrainedModel) or inner.can_generate() or inner.main_input_name != "input_ids":
        return None
    return {name: {1: Dim.AUTO} for name in ("input_ids", "attention_mask")}


def longest_source(model: Any) -> int:
    """The maximum tokens of a source: the model's positions, else `_LONGEST_SOURCE`."""
    description = getattr(model, "description", None)
    if description is not None:
        return int(description.get("max_positions") or _LONGEST_SOURCE)
    config = getattr(getattr(model, "module", model), "config", None)
    return int(getattr(config, "max_position_embeddings", None) or _LONGEST_SOURCE)


def _quantize_untrained(model: Any, recipe: str) -> Any:
    import torch

    import tbt_compile
    from tbt_compile.adapters import adapter_for

    model = tbt_compile.prepare(model, recipe=recipe)
    if model.main_input_name != "input_ids":  # sounds: noise of the shape that the config says
        inputs = adapter_for(model).example_inputs(model)
        sound = inputs[model.main_input_name]
        noise = torch.randn(sound.shape, generator=torch.Generator().manual_seed(0))
        tbt_compile.set_scales(model.eval(), **inputs | {model.main_input_name: noise})
        return model
    count = min(64, longest_source(model), model.config.vocab_size)
    ids = torch.arange(model.config.vocab_size - count, model.config.vocab_size)[None]
    # Without dropout: the same folder has the same scales every time, which `tbt verify` relies on.
    tbt_compile.set_scales(model.eval(), input_ids=ids, labels=ids)
    return model
