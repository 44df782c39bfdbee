"""The training methods that the paper compares, by name, behind one interface."""

from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.registry import METHODS, get_method

__all__ = ["METHODS", "Method", "get_method"]
