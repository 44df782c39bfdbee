"""Passes over the exported graph of a frozen model, up to the operators that have kernels."""

from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext
from tbt_compile.passes.lowering.pipeline import lowering_pipeline

__all__ = ["CacheSlot", "LoweringContext", "lowering_pipeline"]
