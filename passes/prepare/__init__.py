"""Passes that put quantizers into a full-precision model."""
