"""The table `recipes`: what other papers do, one change at a time to the default recipe. Not in the paper."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tbt_compile.reproduce.defaults import VARIANTS, changed
from tbt_compile.reproduce.paper import TEACHER, PaperRow, PaperTable
from tbt_compile.training.methods.staged import STAGED_PLUS
from tbt_compile.training.methods.tbt import PLUS, TBT
from tbt_compile.training.settings import LossWeights

BASE = VARIANTS["tbt-identity-gradient"]
"""The default recipe and loss."""

_change = partial(changed, BASE)

CHANGES = {
    method.name: method
    for method in (
        _change("trust-weights", "trust gradient of weights (QuEST)", options={"ste": "trust"}),
        _change(
            "trust-activations", "trust gradient of activations (QuEST)", options={"activation_ste": "trust"}
        ),
        _change("offset", "offset of activations (BiT)", options={"activation_offset": True}),
        _change("learned-rows", "learned scales of rows (ParetoQ)", options={"weight_method": "learned"}),
        _change("dead-zone", "bias of the dead zone (Tequila)", ("2-2-2",), options={"dead_zone": 1e-3}),
        _change("hadamard", "rotated inputs (BitNet v2)", options={"hadamard": ("*.out_proj", "*.fc2")}),
        _change("soft-weights", "soft levels that harden (Hestia)", settings={"soft_weights": 0.5}),
        _change("warm-up", "warm-up of quantization", settings={"quantization_warmup": 0.3}),
        _change(
            "decay", "weight decay in the first half", settings={"weight_decay": 0.05, "decay_share": 0.5}
        ),
        _change("average", "average of the steps", settings={"average": 0.99}),
        _change("updates", "four times the steps, a quarter of the batch", updates=4),
        _change("distributions", "the teacher's distributions alone", weights=LossWeights(hidden=0.0)),
        _change("relations", "attention relations (BitDistill)", weights=LossWeights(relations=1.0)),
    )
}
"""The default recipe with one change each, by name."""

RECIPES = PaperTable(
    "recipes",
    "What other papers do, one change at a time",
    ("R1", "R2", "RL"),
    None,
    (
        PaperRow(TEACHER, "full precision", "32-32-32", None, None, {}),
        *(
            PaperRow(method.name, method.title, notation, None, None, {})
            for notation in TBT.notations
            for method in (replace(BASE, title="the default"), *CHANGES.values(), PLUS, STAGED_PLUS)
            if notation in method.notations
        ),
    ),
)
