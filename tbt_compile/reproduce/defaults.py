"""The table `defaults`: an ablation of TBT that changes one choice at a time. It is not in the paper."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tbt_compile.reproduce.paper import TEACHER, PaperRow, PaperTable
from tbt_compile.training.methods import Method
from tbt_compile.training.methods.staged import STAGED
from tbt_compile.training.methods.tbt import TBT
from tbt_compile.training.settings import LossWeights

BOTH = ("2-2-2", "1-1-1")


def changed(base: Method, name: str, title: str, notations: tuple[str, ...] = BOTH, **changes: Any) -> Method:
    """A method with something changed.

    Args:
        base: the method.
        name: of the new one, after "tbt-".
        title: what is changed.
        notations: that it supports.
        changes: fields of `Method`; `options` are added to those of the base.
    """
    options = {**base.options, **changes.pop("options", {})}
    return replace(base, name=f"tbt-{name}", title=title, notations=notations, options=options, **changes)


_variant = partial(changed, TBT)

VARIANTS = {
    method.name: method
    for method in (
        _variant("uncentred-weights", "weights not centred", options={"center_weights": False}),
        _variant("uncentred-activations", "activations not centred", options={"center_activations": False}),
        _variant(
            "identity-gradient", "gradients of weights not clipped", TBT.notations,
            options={"ste": "identity"},
        ),
        _variant(
            "released",
            "all three, as the released code",
            options={"center_weights": False, "center_activations": False, "ste": "identity"},
        ),
        _variant("l2-scales", "scales start at the least squared error", options={"initial_scale": "l2"}),
        _variant("gelu", "GELU without negative values", options={"gelu": "nonnegative"}),
        _variant(
            "projection-2", "output projection at 2 bits", ("2-2-2",),
            options={"output_projection_activation_bits": 2},
        ),
        _variant(
            "projection-1", "output projection at 1 bit", ("1-1-1",),
            options={"output_projection_activation_bits": 1},
        ),
        _variant(
            "projection-32", "output projection's input in fp32",
            options={"output_projection_activation_bits": 32},
        ),
        _variant("hidden-0.3", "hidden states weigh 0.3", weights=LossWeights(hidden=0.3)),
        _variant("hidden-3", "hidden states weigh 3", weights=LossWeights(hidden=3.0)),
    )
}  # fmt: skip
"""Variants of TBT as the paper's text describes it, each with one choice changed, by name. The learning rate
is a setting of the whole experiment."""

_ROWS = tuple(
    PaperRow(method.name, method.title, notation, None, None, {})
    for notation in ("2-2-2", "1-1-8", "1-1-1")
    for method in (TBT, *VARIANTS.values(), STAGED)
    if notation in method.notations
)
DEFAULTS = PaperTable(
    "defaults",
    "Choices in TBT, changed one at a time",
    ("R1", "R2", "RL"),
    None,
    (PaperRow(TEACHER, "full precision", "32-32-32", None, None, {}), *_ROWS),
)
