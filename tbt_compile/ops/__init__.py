"""The graph operators `torch.ops.tbt`, each declared once (see `tbt_compile.ops.schema`)."""

from tbt_compile.ops import attention, cache, float_ops, hadamard, linear, quantize  # registers them

__all__ = ["attention", "cache", "float_ops", "hadamard", "linear", "quantize"]
