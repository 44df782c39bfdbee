"""The parts of a GGUF file that do not depend on how its weights are stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbt_compile.bench.model_shapes import Shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def opened_gguf(path: Path, shape: Shape, eps: float, theta: float, *, spool: bool = False) -> Any:
    """Start a GGUF file without a vocabulary.

    Args:
        path: the file.
        shape: of the model; its family is the architecture.
        eps: of the RMS norms.
        theta: base of the rotary frequencies.
        spool: keep tensors on disk, not in memory, until the file is written.

    Returns:
        A `gguf.GGUFWriter`, for the type of the file and its tensors.
    """
    import gguf

    writer = gguf.GGUFWriter(path, shape.family, use_temp_file=spool)
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")
    return writer


def close_gguf(writer: Any) -> None:
    """Write what was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adjacent_pairs(weight: npt.NDArray[np.generic], heads: int) -> npt.NDArray[np.generic]:
    """Reorder rows: transformers rotates element i of a head with i + D / 2, llama.cpp with the next one."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)
