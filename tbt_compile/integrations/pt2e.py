"""`TbtQuantizer`: the quantizers of this package in the PT2E flow of torchao.

    module = torch.export.export(model, inputs).module()
    module = prepare_qat_pt2e(module, TbtQuantizer("2-2-2"))

The graph is annotated at the sites that `plan` finds, with fake quantizers that return the real values of
the codes: products multiply values, not codes, so that their last bits differ from those of `prepare`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from tbt_compile.adapters.base import Adapter
from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError
from tbt_compile.extras import require_extra
from tbt_compile.modules.products import product_name
from tbt_compile.passes.prepare.classify import ClassifyActivations
from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.find_sites import FindSites
from tbt_compile.passes.prepare.insert_quantizers import build_quantizers
from tbt_compile.passes.prepare.number_calls import numbered
from tbt_compile.passes.prepare.plan import MakePlan, QuantPlan
from tbt_compile.passes.prepare.site_plan import Operand
from tbt_compile.recipe import Recipe

with require_extra():
    from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
        SharedQuantizationSpec,
    )
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

_SPELLINGS = ("linear", "matmul", "addmm", "embedding_lookup")
_COLUMNS = ("weight", "key")
"""Operands whose rows are columns where they are the right factor of a plain product."""


class TbtFakeQuantize(FakeQuantizeBase):
    """Replaces a tensor by the real values of its codes, with the gradients of the quantizer.

    Args:
        quantizer: of a tensor whose last dimension holds the features.
        transposed: whether the last two dimensions of the tensor are in the other order.
        dtype: of the codes.
        _options: what else torchao repeats of the annotation.
    """

    def __init__(
        self, quantizer: nn.Module, transposed: bool = False, dtype: torch.dtype = torch.int8, **_options: Any
    ) -> None:
        super().__init__()
        self.dtype, self.is_dynamic = dtype, False  # what a conversion asks for first
        self.quantizer, self.transposed = quantizer, transposed

    def forward(self, x: Tensor) -> Tensor:
        """Quantize a tensor; the result has its shape and dtype."""
        rows = x.transpose(-1, -2) if self.transposed else x
        value: Tensor = self.quantizer(rows).value
        return (value.transpose(-1, -2) if self.transposed else value).to(x.dtype)

    def calculate_qparams(self, **_options: Any) -> NoReturn:
        """Refuse the conversion to quantize and dequantize operators.

        Raises:
            PlanError: always.
        """
        raise PlanError(
            "convert_pt2e has no form for centred codes of one or two bits: load the state into a model that "
            "tbt_compile.prepare made, and freeze or lower that"
        )


class TbtQuantizer(Quantizer):
    """Annotates an exported graph with the quantizers of a recipe.

    Args:
        recipe: as for `prepare`.

    Attributes:
        plan: of the graph that was annotated last.
    """

    def __init__(self, recipe: str | Recipe = "2-2-2") -> None:
        super().__init__()
        self.recipe = Recipe.parse(recipe)
        self.plan: QuantPlan | None = None

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate the operands of every site.

        Raises:
            PlanError: there is nothing to quantize, a site hides its operands, or the recipe rotates weights.
        """
        if self.recipe.hadamard:
            raise PlanError(
                "the recipe's hadamard rotates weights, and annotations change none: leave it out, or call "
                "tbt_compile.prepare"
            )
        context = PrepareContext(model, self.recipe, Adapter(), graph=model)
        with numbered(model.graph) as names:
            context.calls = {"": names}
            for phase in (ClassifyActivations(), FindSites(), MakePlan()):
                phase.apply(context)
        self.plan = context.planned
        context.quantizers = build_quantizers(context)
        found = {site.fqn: site for site in context.sites}
        for site in context.planned:
            for operand in site.operands:
                first: tuple[fx.Node, fx.Node] | None = None
                for call in found[site.fqn].calls if operand.encoding.quantized else ():
                    consumer = call.output if operand.name in ("probabilities", "value") else call.node
                    node = call.operands[operand.name]
                    if node is None or product_name(consumer.target) not in _SPELLINGS:
                        raise _hidden(site.name, consumer)
                    quantizer = context.quantizers[site.fqn, operand.name]
                    spec: Any = _specification(operand, quantizer, _is_transposed(consumer, operand.name))
                    if first is not None:  # the calls of a site share their quantizers
                        spec = SharedQuantizationSpec(first)
                    _annotation(consumer).input_qspec_map[node] = spec
                    first = first or (node, consumer)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing is left to check: `annotate` refuses what it cannot annotate."""


def _annotation(node: fx.Node) -> QuantizationAnnotation:
    made = QuantizationAnnotation(allow_implicit_sharing=False, _annotated=True)
    annotation: QuantizationAnnotation = node.meta.setdefault(Q_ANNOTATION_KEY, made)
    return annotation


def _specification(operand: Operand, quantizer: nn.Module, transposed: bool) -> QuantizationSpec:
    encoding = operand.encoding
    return QuantizationSpec(
        dtype=torch.int8 if encoding.signed or encoding is Encoding.BINARY else torch.uint8,
        observer_or_fake_quant_ctr=TbtFakeQuantize.with_args(quantizer=quantizer, transposed=transposed),
        quant_min=encoding.minimum,
        quant_max=encoding.maximum,
    )


def _is_transposed(consumer: fx.Node, operand: str) -> bool:
    """Whether the rows of an operand, one per output, lie in its last dimension."""
    return operand in _COLUMNS and product_name(consumer.target) in ("matmul", "addmm")


def _hidden(site: str, node: fx.Node) -> PlanError:
    return PlanError(
        f"{site!r} computes {node.target}, whose operands cannot be annotated one by one: export the model "
        f"with eager attention and plain products, or exclude it in the recipe"
    )
