"""Engines that transcribe: an example is the features of a window, float32 [mels, frames]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from engines import Engine, until_end
from students import compiled_folder, folder_bytes
from transformers import PreTrainedModel

import tbt_compile

Window = npt.NDArray[np.float32]


def torch_speech(model: PreTrainedModel) -> Engine:
    """PyTorch in float32."""
    end = model.generation_config.eos_token_id

    @torch.no_grad()
    def write(window: Window, most: int, exactly: bool) -> list[int]:
        least = {"min_new_tokens": most} if exactly else {}
        features = torch.from_numpy(window[None])
        found: Any = model.generate(input_features=features, max_new_tokens=most, do_sample=False, **least)
        return until_end(found[0].tolist(), end)

    return Engine(sum(weight.nbytes for weight in model.parameters()), write)


def compiled_speech(output: Path, recipe: str, end: int) -> Engine:
    """A compiled student.

    Args:
        output: folder of the study.
        recipe: of the student.
        end: the end token.
    """
    folder = compiled_folder(output, recipe)
    model = tbt_compile.load(folder, num_threads=1)

    def write(window: Window, most: int, exactly: bool) -> list[int]:
        least = {"min_new_tokens": most} if exactly else {}
        found = model.generate(input_features=window[None], max_new_tokens=most, **least)
        return until_end(found[0].tolist(), end)

    return Engine(folder_bytes(folder), write)


def ctranslate2_speech(model: PreTrainedModel, tokenizer: Any, folder: Path) -> Engine:
    """The same model in CTranslate2 with int8 weights.

    Args:
        model: the teacher.
        tokenizer: of it.
        folder: for the converted model.
    """
    import ctranslate2
    from ctranslate2.converters.transformers import WhisperLoader

    end = model.generation_config.eos_token_id
    if not folder.exists():
        loader = WhisperLoader()
        spec = loader.get_model_spec(model)
        spec.register_vocabulary(loader.get_vocabulary(model, tokenizer))
        loader.set_config(spec.config, model, tokenizer)
        spec.validate()
        spec.optimize(quantization="int8")
        folder.mkdir(parents=True)
        spec.save(str(folder))
    loaded = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
    prompt = list(tokenizer.prefix_tokens)

    def write(window: Window, most: int, exactly: bool) -> list[int]:
        features = ctranslate2.StorageView.from_array(np.ascontiguousarray(window[None]))
        (result,) = loaded.generate(
            features,
            [prompt],
            beam_size=1,
            max_length=max(2 * most, most + len(prompt)),  # half of it is for what came before
            suppress_tokens=[-1, end] if exactly else [-1],
        )
        return list(result.sequences_ids[0][:most])

    return Engine(folder_bytes(folder), write)
