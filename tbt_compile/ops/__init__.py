"""The operators of the graph, `torch.ops.tbt`: schema, eager reference and fake of each."""

from tbt_compile.ops import fused, quantize  # registers them

__all__ = ["fused", "quantize"]
