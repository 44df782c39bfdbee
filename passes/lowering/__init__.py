"""Passes that lower the exported graph of a frozen model to operators with kernels."""

from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext
from tbt_compile.passes.lowering.pipeline import lowering_pipeline

__all__ = ["CacheSlot", "LoweringContext", "lowering_pipeline"]
