"""Layers whose operands no kernel multiplies: allowed in training, refused by `lower`."""

from __future__ import annotations

from collections.abc import Iterable

from tbt_compile.encoding import Encoding
from tbt_compile.errors import listed
from tbt_compile.passes.prepare.site_plan import SitePlan


def unmatched_encodings(sites: Iterable[SitePlan]) -> list[str]:
    """Why `lower` will refuse what is planned: one sentence for each pair of encodings.

    Args:
        sites: layers and attention cores; those without a weight or an input have nothing to match.

    Returns:
        The sentences, in the order of the sites.
    """
    layers: dict[tuple[int, int], list[str]] = {}
    for site in sites:
        operands = {operand.name: operand.encoding for operand in site.operands}
        if {"input", "weight"} <= operands.keys() and not _match(operands["input"], operands["weight"]):
            layers.setdefault((operands["input"].bits, operands["weight"].bits), []).append(site.name)
    return [_sentence(x, weight, names) for (x, weight), names in layers.items()]


def _match(x: Encoding, weight: Encoding) -> bool:
    """Whether a kernel multiplies them: inputs have 8 bits wherever weights have; float weights, no codes."""
    return not x.quantized or (weight.quantized and (x.dynamic or bool(weight.planes)))


def _sentence(x_bits: int, weight_bits: int, names: list[str]) -> str:
    needed = "inputs in full precision" if weight_bits == 32 else "8-bit inputs"
    return (
        f"{listed(names)}: weights of {weight_bits} bits need {needed}, not "
        f"{x_bits}-bit ones; give the recipe other bits, or name the layers in `exclude`"
    )
