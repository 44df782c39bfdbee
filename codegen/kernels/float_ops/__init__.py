"""Operators that stay in float32: norms, activations, softmax, and search over a vocabulary."""
