"""Random BitNet models on disk, written tensor by tensor: a folder of transformers, and a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbt_compile.bench.gguf_header import close_gguf, opened_gguf
from tbt_compile.bench.model_shapes import Shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PER_BYTE = 4
_TERNARY_BLOCK, _SIX_BIT_BLOCK = 256, 256
_SCALE = 0.02


def linear_sizes(shape: Shape) -> dict[str, tuple[int, int]]:
    """Rows and columns of the linear layers of a block, by their names in transformers."""
    narrow = shape.width // shape.heads * shape.key_value_heads
    return {
        "self_attn.q_proj": (shape.width, shape.width),
        "self_attn.k_proj": (narrow, shape.width),
        "self_attn.v_proj": (narrow, shape.width),
        "self_attn.o_proj": (shape.width, shape.width),
        "mlp.gate_proj": (shape.feed_forward, shape.width),
        "mlp.up_proj": (shape.feed_forward, shape.width),
        "mlp.down_proj": (shape.width, shape.feed_forward),
    }


def norm_sizes(shape: Shape) -> dict[str, int]:
    """Sizes of the norms of a block."""
    return {
        "input_layernorm": shape.width,
        "post_attention_layernorm": shape.width,
        "self_attn.attn_sub_norm": shape.width,
        "mlp.ffn_sub_norm": shape.feed_forward,
    }


def write_folder(folder: Path, shape: Shape) -> Path:
    """Write a random model in transformers' BitNet format: packed weights, embedding in bfloat16.

    Args:
        folder: created; one safetensors file per block.
        shape: of the family "bitnet".

    Returns:
        The folder.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BitNetConfig

    folder.mkdir(parents=True, exist_ok=True)
    config = BitNetConfig(**shape.config_fields(), dtype="bfloat16", tie_word_embeddings=True)
    config.architectures = ["BitNetForCausalLM"]
    config.quantization_config = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def files() -> Iterator[tuple[str, dict[str, Any]]]:
        table = torch.randn(shape.vocab_size, shape.width, generator=generator, dtype=torch.bfloat16)
        outer = {"model.embed_tokens.weight": table.mul_(_SCALE)}
        outer["model.norm.weight"] = torch.ones(shape.width, dtype=torch.bfloat16)
        yield "model-outer.safetensors", outer
        for layer in range(shape.layers):
            stem, tensors = f"model.layers.{layer}", {}
            for name, (rows, columns) in linear_sizes(shape).items():
                codes = torch.randint(0, 3, (_PER_BYTE, rows // _PER_BYTE, columns), generator=generator)
                packed = sum(codes[place] << 2 * place for place in range(_PER_BYTE))
                tensors[f"{stem}.{name}.weight"] = packed.to(torch.uint8)  # type: ignore[union-attr]
                tensors[f"{stem}.{name}.weight_scale"] = torch.tensor([_SCALE], dtype=torch.bfloat16)
            for name, size in norm_sizes(shape).items():
                tensors[f"{stem}.{name}.weight"] = torch.ones(size, dtype=torch.bfloat16)
            yield f"model-{layer}.safetensors", tensors

    placed: dict[str, str] = {}
    for file, tensors in files():
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_gguf(path: Path, shape: Shape) -> None:
    """Write a random model as GGUF: linear layers in TQ2_0, the tied embedding in Q6_K, as llama.cpp has it.

    Args:
        path: of the file.
        shape: of the family "bitnet".
    """
    import gguf
    import numpy as np

    writer = opened_gguf(path, shape, 1e-5, 500000.0, spool=True)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_TQ2_0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BITNET, shape.layers)
    kinds, random = gguf.GGMLQuantizationType, np.random.default_rng(0)
    table = _six_bits(random, shape.vocab_size, shape.width)
    writer.add_tensor("token_embd.weight", table, raw_dtype=kinds.Q6_K)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        for name, (rows, columns) in linear_sizes(shape).items():
            theirs = f"{names.get_name(f'{stem}.{name}')}.weight"
            writer.add_tensor(theirs, _ternary(random, rows, columns), raw_dtype=kinds.TQ2_0)
        for name, size in norm_sizes(shape).items():
            theirs = names.get_name(f"{stem}.{name}") or f"blk.{layer}.{name.rpartition('.')[2]}"
            writer.add_tensor(f"{theirs}.weight", np.ones(size, np.float32))
    close_gguf(writer)


def _ternary(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Blocks of TQ2_0: 256 codes of 2 bits, and a float16 scale."""
    import numpy as np

    blocks = rows * columns // _TERNARY_BLOCK
    codes = random.integers(0, 3, (_PER_BYTE, blocks, _TERNARY_BLOCK // _PER_BYTE), np.uint8)
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    scale = np.full((blocks, 1), _SCALE, np.float16).view(np.uint8)
    return np.concatenate([packed, scale], axis=1).reshape(rows, -1)


def _six_bits(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Blocks of Q6_K: 256 codes of 6 bits, 16 scales of 8 bits, and a float16 scale of those."""
    import numpy as np

    blocks = rows * columns // _SIX_BIT_BLOCK
    codes = random.integers(0, 256, (blocks, _SIX_BIT_BLOCK * 6 // 8 + 16), np.uint8)
    scale = np.full((blocks, 1), _SCALE / 4096, np.float16).view(np.uint8)
    return np.concatenate([codes, scale], axis=1).reshape(rows, -1)
