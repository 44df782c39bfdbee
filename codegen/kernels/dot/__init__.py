"""Dot products of codes: popcount formulas, byte products, register tiles."""
