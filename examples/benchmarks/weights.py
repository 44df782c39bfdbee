"""Difference between TBT's weight quantizers and the baselines' (TWN, BWN) on a model's weights.

    python examples/benchmarks/weights.py results/teacher --json out.json

Over all quantized weights of the model: the share of equal codes, the ratio of the baseline's scale to TBT's
(mean over rows), and the share of weights that TBT's clipped straight-through estimator (Eq. 10) gives no
gradient. The paper's table 3 replaces one quantizer by the other; where they hardly differ, the effect is
small.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM

import tbt_compile
from tbt_compile.modules import iter_quantized

BASELINES = {"2-2-2": "twn-2-2-2", "1-1-1": "bwn-1-1-1"}


@torch.no_grad()
def compare(model: nn.Module, notation: str) -> dict[str, float]:
    """Compare the quantizers; means over all quantized weights of a full-precision model."""
    ours = tbt_compile.prepare(copy.deepcopy(model), notation)
    baseline = dict(iter_quantized(tbt_compile.prepare(copy.deepcopy(model), BASELINES[notation])))
    totals = {"equal_codes": 0.0, "scale_ratio": 0.0, "without_gradient": 0.0}
    size, seen = 0, set()
    for name, module in iter_quantized(ours):
        if not hasattr(module, "weight_quantizer") or id(module.weight) in seen:
            continue
        seen.add(id(module.weight))
        weight = module.weight_rows
        one, other = module.weight_quantizer(weight), baseline[name].weight_quantizer(weight)
        outside = (weight - weight.mean(-1, keepdim=True)).abs() >= one.scale
        totals["equal_codes"] += float((one.codes == other.codes).sum())
        totals["scale_ratio"] += float((other.scale / one.scale).mean()) * weight.numel()
        totals["without_gradient"] += float(outside.sum())
        size += weight.numel()
    return {name: total / size for name, total in totals.items()}


def main() -> None:
    """Compare, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of an encoder-decoder in full precision")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model).eval()
    found = {notation: compare(model, notation) for notation in BASELINES}
    for notation, figures in found.items():
        print(
            f"{notation}: {figures['equal_codes']:.1%} of the codes are equal, the scale is "
            f"{figures['scale_ratio']:.3f} of TBT's, {figures['without_gradient']:.1%} of the weights are "
            "outside TBT's clipping range and get no gradient"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
