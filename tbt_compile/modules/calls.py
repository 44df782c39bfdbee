"""Quantized calls of product functions: `F.linear(x, self.w)`, `x @ self.w`, scaled dot product attention.

A layer such as `nn.Linear` becomes quantized by its class. Code that calls a function has no such place, so a
quantized module replaces the call: it takes the function's arguments and returns its result. The owner, the
module whose forward makes the call, holds one for each quantized call, and runs its own forward with those
calls intercepted; see `interception`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.modules.multihead import additive_mask, masked_softmax
from tbt_compile.modules.products import Contraction, contraction, operands_of
from tbt_compile.quantizers import quantized_embedding, quantized_linear, quantized_matmul


class QuantizedCall(nn.Module):
    """Takes the place of one call of a product; its quantizers are children named by operand.

    Attributes:
        function: the name of the function, see `products.product_name`.
        reverse: whether the operands of a product are in the other order: the weight, key or value first.
    """

    def __init__(self, function: str, quantizers: dict[str, nn.Module], reverse: bool = False) -> None:
        super().__init__()
        self.function, self.reverse = function, reverse
        for name, quantizer in quantizers.items():
            self.add_module(name, quantizer)

    def contracted(self, args: Any, kwargs: Any) -> Contraction:
        """Return the contraction that a call of the function is, with the operands in their usual order."""
        found = contraction(self.function, args, kwargs)
        assert found is not None, "a call without this form is no site"
        return found.swapped() if self.reverse else found

    def extra_repr(self) -> str:
        return self.function


class CallWithWeight(QuantizedCall):
    """A call that has a weight among its arguments. Child: `weight_quantizer`.

    Attributes:
        parameters_read: names, in the whole model, of the parameters that the weight is computed from.
        frees: those that only quantized calls read.
        keeps: whether the next call keeps its weight.
        weight_rows: the weight of a call as [N, K], kept while `keeping_weights` is entered; else None.
    """

    weight_quantizer: nn.Module

    def __init__(
        self,
        function: str,
        quantizers: dict[str, nn.Module],
        reverse: bool = False,
        parameters: tuple[str, ...] = (),
        frees: tuple[str, ...] = (),
    ) -> None:
        super().__init__(function, quantizers, reverse)
        self.parameters_read, self.frees, self.keeps = parameters, frees, False
        self.weight_rows: Tensor | None = None

    def see(self, weight: Tensor) -> None:
        """Keep the weight of the call that is being made, if asked to."""
        if self.keeps:
            self.weight_rows = weight.detach()


@contextmanager
def keeping_weights(model: nn.Module) -> Iterator[None]:
    """Let every call in the model keep the weight that it gets in the `with` block."""
    calls = [module for module in model.modules() if isinstance(module, CallWithWeight)]
    for call in calls:
        call.keeps = True
    try:
        yield
    finally:
        for call in calls:
            call.keeps, call.weight_rows = False, None


class QuantizedWeightCall(CallWithWeight):
    """A product with a weight. Children: `input_quantizer` and `weight_quantizer`."""

    input_quantizer: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Multiply the quantized input by the quantized weight."""
        found = self.contracted(args, kwargs)
        self.see(found.right)
        x, weight = self.input_quantizer(found.left), self.weight_quantizer(found.right)
        return found.finish(quantized_linear(x, weight, None))


class QuantizedEmbeddingCall(CallWithWeight):
    """A lookup in a table, float [N, D]. Child: `weight_quantizer`."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Look up rows of the quantized table."""
        first, second, padding = operands_of(self.function, args, kwargs)
        ids, weight = (first, second) if self.function == "embedding" else (second, first)
        self.see(weight)
        return quantized_embedding(ids, self.weight_quantizer(weight), None if padding == -1 else padding)


class QuantizedProductCall(QuantizedCall):
    """One product of an attention that its module writes out. Children: `query` and `key`, or those of PV.

    The operands are brought to four dimensions, [B, H, Q, D], which the compiled operators take.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Multiply both quantized operands."""
        found, shape = _four_dimensions(self.contracted(args, kwargs))
        scores = "query" in self._modules
        first, second = ("query", "key") if scores else ("probabilities", "value")
        left = self._modules[first](found.left)  # type: ignore[misc]
        right = self._modules[second](found.right if scores else found.right.transpose(-1, -2))  # type: ignore[misc]
        return found.finish(quantized_matmul(left, right, scores).reshape(shape))


class QuantizedSdpaCall(QuantizedCall):
    """`F.scaled_dot_product_attention` on quantized operands.

    Children: `query`, `key`, `probabilities` and `value`.

    Attributes:
        without_softmax: whether `probabilities` quantizes the masked scores (Bi-Attention).
    """

    query: nn.Module
    key: nn.Module
    probabilities: nn.Module
    value: nn.Module

    def __init__(
        self, function: str, quantizers: dict[str, nn.Module], without_softmax: bool = False
    ) -> None:
        super().__init__(function, quantizers)
        self.without_softmax = without_softmax

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute attention; arguments and result are those of `F.scaled_dot_product_attention`.

        Args:
            query: `[..., H, Q, D]`.
            key: `[..., H, T, D]`.
            value: `[..., H, T, Dv]`.
            attn_mask: broadcasts to `[..., H, Q, T]`; True where attention is allowed, or to be added.
            dropout_p: of the probabilities, also in evaluation mode.
            is_causal: whether query i attends to keys 0 to i only.
            scale: of the scores; None for D ** -0.5.
            enable_gqa: whether key and value have fewer heads, each of which several query heads share.

        Returns:
            `[..., H, Q, Dv]`.
        """
        shape, width = query.shape, value.shape[-1]
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        if max(x.dim() for x in (query, key, value)) == 3 and not enable_gqa:  # one head
            query, key, value = (_rank_three(x).unsqueeze(1) for x in (query, key, value))
            if attn_mask is not None and attn_mask.dim() == 3:
                attn_mask = attn_mask.unsqueeze(1)
        query, key, value = (_rank_four(x) for x in (query, key, value))
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = quantized_matmul(self.query(query), self.key(key), True) * factor
        if is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            attn_mask = torch.where(causal, 0.0, torch.finfo(scores.dtype).min)  # query i sees key i at least
            probabilities = self._probabilities(scores + attn_mask, None)
        else:
            probabilities = self._probabilities(
                scores, attn_mask if attn_mask is None else _rank_four(attn_mask)
            )
        if dropout_p and not self.without_softmax:
            probabilities = torch.dropout(probabilities, dropout_p, True)
        mixed = quantized_matmul(self.probabilities(probabilities), self.value(value), False)
        if len(shape) == 4:  # in memory [B, Q, H, D], as PyTorch's kernels leave it: callers view it so
            return mixed.transpose(1, 2).contiguous().transpose(1, 2)
        return mixed.reshape(*shape[:-1], width)

    def _probabilities(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if self.without_softmax:
            return scores if mask is None else scores + additive_mask(mask, scores.dtype)
        return masked_softmax(scores, mask)


def _rank_three(x: Tensor) -> Tensor:
    return x[(None,) * (3 - x.dim())]


def _rank_four(x: Tensor) -> Tensor:
    """Leading dimensions joined or added, so that there are four."""
    if x.dim() > 4:
        return x.flatten(0, x.dim() - 4)
    return x[(None,) * (4 - x.dim())]


def _four_dimensions(found: Contraction) -> tuple[Contraction, list[Any]]:
    """Operands [B, H, M, K] and [B, H, N, K], and the shape of the product before."""
    left, right = found.left, found.right
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = [*batch, left.shape[-2], right.shape[-2]]
    if left.shape[:-2] != batch or right.shape[:-2] != batch:
        left, right = (x.expand(*batch, *x.shape[-2:]) for x in (left, right))
    if len(batch) == 1:  # heads are merged with rows, or there are none
        left, right = left.unsqueeze(1), right.unsqueeze(1)
    return Contraction(_rank_four(left), _rank_four(right), found.finish), shape
