"""Learning rates for those who ask for none: peaks of the schedule."""

from __future__ import annotations

from tbt_compile.recipe import Recipe

PAPER_RATE = 5e-4
"""Of BART-base and mBART-large with 1 and 2 bit activations (Liu et al. 2023, section 3.1)."""
_SMALL = ("tiny", "small")


def teacher_rate(model: str) -> float:
    """For training a full-precision model: one of the sizes that are trained from nothing, or any other.

    >>> teacher_rate("tiny"), teacher_rate("facebook/bart-base")
    (0.002, 0.0005)
    """
    return 2e-3 if model in _SMALL else PAPER_RATE


def student_rate(model: str, recipe: str | Recipe, given: float | None = None) -> float:
    """For a student of a model: `given`, or what small sizes or the paper's models want at few bits.

    8-bit activations halve it, as in the paper. For small sizes twice the teacher's rate was best or close to
    it on two data sets, at both one and two bits.

    >>> student_rate("tiny", "2-2-2"), student_rate("tiny", "2-2-8"), student_rate("my-bart", "1-1-1")
    (0.004, 0.002, 0.0005)
    """
    usual = 4e-3 if model in _SMALL else PAPER_RATE
    rate = usual if given is None else given
    return rate / 2 if Recipe.parse(recipe).activation_bits == 8 else rate
