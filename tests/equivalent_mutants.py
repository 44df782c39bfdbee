"""Mutants that compute the same as the original, by file: the change, and why no test can tell them apart."""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, str]] = {}
