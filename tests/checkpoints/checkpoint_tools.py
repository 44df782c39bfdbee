"""Small checkpoints with random ternary weights, written in the formats that other tools use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitNetConfig,
    BitNetForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

with warnings.catch_warnings():  # importing it calls torch.compile, which imports what torch deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from transformers.integrations.bitnet import pack_weights

from tbt_compile.bench.gguf_header import adjacent_pairs, close_gguf, opened_gguf
from tbt_compile.bench.model_shapes import Shape

SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def bitnet(tied: bool = True, **changes: Any) -> BitNetForCausalLM:
    """A BitNet model in bfloat16 with random weights, norms too."""
    model = BitNetForCausalLM(BitNetConfig(**{**SIZES, "tie_word_embeddings": tied, **changes}))
    return randomized(model).bfloat16()


def llama(tied: bool = False, **changes: Any) -> LlamaForCausalLM:
    """A Llama in float32 with random weights, norms too."""
    return randomized(LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": tied, **changes})))


def randomized(model: Any) -> Any:
    """Give every parameter random values; norms stay near one."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        parameter.data = 1 + 0.3 * noise if "norm" in name else 0.05 * noise
    return model.eval()


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that are ternary in such checkpoints: all but the output projection."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }


def save_bitnet(
    folder: Path,
    linear_class: str = "bitlinear",
    mode: str = "offline",
    *,
    packed: bool = True,
    norm: bool = False,
    tied: bool = True,
) -> Path:
    """Write a BitNet checkpoint, packed by transformers' own code."""
    model = bitnet(tied)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    for name, module in linears(model).items():
        codes, scale = ternary(module.weight.float())
        if mode == "offline":
            state[f"{name}.weight"] = pack_weights(codes.clone()) if packed else codes.bfloat16()
            stored = 1 / scale if linear_class == "bitlinear" else scale
            state[f"{name}.weight_scale"] = stored.reshape(1).bfloat16()
        if norm:
            state[f"{name}.rms_norm.weight"] = (1 + 0.3 * torch.randn(module.in_features)).bfloat16()
    model.config.quantization_config = {
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": mode,
        "modules_to_not_convert": None,
        "use_rms_norm": norm,
        "rms_norm_eps": 1e-6,
    }
    return save(folder, model, state)


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and the scale of a weight, as BitNet b1.58 has them."""
    scale = weight.abs().mean().clamp_min(1e-5)
    return (weight / scale).round().clamp(-1, 1), scale


def save(folder: Path, model: PreTrainedModel, state: dict[str, Tensor]) -> Path:
    """Write a config and one safetensors file."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def in_float32(folder: Path) -> PreTrainedModel:
    """What transformers reads from a BitNet checkpoint, computing in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for module in model.modules():  # packed weights are unpacked in the dtype of the config
        for name, tensor in module._buffers.items():
            module._buffers[name] = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data = parameter.data.float()
    return model.eval()


def with_codes(model: Any, size: int | None, binary: bool = False) -> Any:
    """Replace the weights of the linear layers by codes times a power of two per group of columns.

    Args:
        model: changed in place.
        size: columns of a group; None for a whole row.
        binary: without zeros.

    Returns:
        The model.
    """
    for module in linears(model).values():
        rows, columns = module.weight.shape
        groups = columns // (size or columns)
        codes = torch.randint(-1, 2, (rows, columns))
        codes = torch.where(codes == 0, 1, codes) if binary else codes
        scales = 2.0 ** -torch.randint(3, 6, (rows, groups)).float()
        module.weight.data = codes.float() * scales.repeat_interleave(columns // groups, 1)
    return model


Encode = Callable[[np.ndarray], tuple[np.ndarray, Any]]


def save_gguf(path: Path, model: PreTrainedModel, encode: Encode) -> Path:
    """Write a Llama or BitNet model as a GGUF file, as llama.cpp's converter does.

    Args:
        path: of the file.
        model: its weights are written as float32 values; a Llama's heads of queries and keys are permuted.
        encode: of the weight of a ternary layer; returns the bytes and their GGML type.

    Returns:
        The path.
    """
    import gguf

    config = model.config
    architecture = config.model_type
    shape = Shape(
        "test",
        architecture,
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
        config.max_position_embeddings,
        config.num_key_value_heads,
    )
    writer = opened_gguf(path, shape, config.rms_norm_eps, config.rope_parameters["rope_theta"])
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    quantized = linears(model)
    for name, tensor in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem == "lm_head" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = adjacent_pairs(values, heads)
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        theirs = f"{names.get_name(stem) or f'blk.{layer}.{part.rpartition(chr(46))[2]}'}.weight"
        if stem in quantized:
            data, kind = encode(values)
            writer.add_tensor(theirs, data, raw_dtype=kind)
        elif "norm" in name:
            writer.add_tensor(theirs, values)
        else:
            writer.add_tensor(theirs, values.astype(np.float16))
    close_gguf(writer)
    return path


def q1_0(weight: np.ndarray) -> np.ndarray:
    """Blocks of a float16 scale and 128 bits."""
    blocks = weight.reshape(len(weight), -1, 128)
    scale = np.abs(blocks).max(-1, keepdims=True).astype(np.float16).view(np.uint8)
    bits = np.packbits(blocks > 0, axis=-1, bitorder="little")
    return np.concatenate([scale, bits], -1).reshape(len(weight), -1)


def q2_k(weight: np.ndarray) -> np.ndarray:
    """Blocks of 256: 16 groups of 16 codes 0..3, w = d * s * code - dmin * m, with a scale for each block.

    Ternary weights have the codes 0, 1 and 2, and s = m = 1.
    """
    blocks = weight.reshape(-1, 256)
    scale = np.abs(blocks).max(-1, keepdims=True).astype(np.float16)
    codes = (np.sign(blocks) + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    bits = codes[:, :, 0] | codes[:, :, 1] << 2 | codes[:, :, 2] << 4 | codes[:, :, 3] << 6
    scales = np.full((len(blocks), 16), 0x11, np.uint8)
    parts = [scales, bits.reshape(len(blocks), 64), scale.view(np.uint8), scale.view(np.uint8)]
    return np.concatenate(parts, -1).reshape(len(weight), -1)
