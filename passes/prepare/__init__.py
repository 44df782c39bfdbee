"""Passes that insert quantizers into a full-precision model."""
