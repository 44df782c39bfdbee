"""TBT (Liu et al. 2023), its baselines TWN and BWN, and the two ablations of the paper's table 3.

TBT quantizes weights from their statistics (Eq. 8-10) and activations with learned scales (Eq. 11-14). The
baselines quantize both from their statistics: TWN at two bits (Eq. 1-3), BWN at one (Eq. 4-5). Each ablation
takes one of TBT's two quantizers and the other from the baseline. TBT+ is TBT with what helps
students that lose much.
"""

from __future__ import annotations

from tbt_compile.training.methods.base import Method
from tbt_compile.training.settings import LossWeights

PAPER = (
    "Liu, Oguz, Pappu, Shi and Krishnamoorthi 2023, Binary and Ternary Natural Language Generation "
    "(arXiv:2306.01841)"
)
_LOW = ("2-2-2", "1-1-1")
EQUATIONS = {"ste": "clipped"}
"""Eq. 10, the clipped straight-through estimator of weights: in the paper, not in the default recipe."""
# The baselines do not subtract the mean, and their straight-through estimator passes every gradient.
_L2_WEIGHTS = {"weight_method": "l2", "center_weights": False, "ste": "identity"}
_STATISTICAL_ACTIVATIONS = {"activation_method": "statistical", "center_activations": False}

TBT = Method("tbt", "TBT", PAPER, ("2-2-8", "2-2-2", "1-1-8", "1-1-1"), EQUATIONS)
PLUS = Method(
    "tbt+",
    "TBT+",
    f"{PAPER}; not the paper's: gradients of weights are not clipped, the loss is on the teacher's "
    "distributions alone, and batches are a quarter, with four times as many updates",
    TBT.notations,
    {"ste": "identity"},
    LossWeights(hidden=0.0),
    updates=4,
)
TWN = Method(
    "twn",
    "Baseline (TWN)",
    "Li, Zhang and Liu 2016, Ternary Weight Networks (arXiv:1605.04711); Eq. 1-3 of the TBT paper",
    ("2-2-8", "2-2-2"),
    {**_L2_WEIGHTS, **_STATISTICAL_ACTIVATIONS},
)
BWN = Method(
    "bwn",
    "Baseline (BWN)",
    "Courbariaux et al. 2016, Binarized Neural Networks (arXiv:1602.02830); Rastegari et al. 2016, XNOR-Net; "
    "Eq. 4-5 of the TBT paper",
    ("1-1-8", "1-1-1"),
    {**_L2_WEIGHTS, **_STATISTICAL_ACTIVATIONS},
)
LEARNED_ACTIVATIONS = Method(
    "ablation-activations", "+ Activation(learning-based)", f"{PAPER}, table 3", _LOW, _L2_WEIGHTS
)
STATS_WEIGHTS = Method(
    "ablation-weights",
    "+ Weight(stats-based)",
    f"{PAPER}, table 3",
    _LOW,
    {**EQUATIONS, **_STATISTICAL_ACTIVATIONS},
)
