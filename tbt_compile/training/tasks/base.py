"""`Task`: what training has to know about a kind of model, and nothing that depends on its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

Inputs = Mapping[str, Tensor]
"""A batch: the arguments of a model's forward, with `labels`."""


@dataclass(frozen=True)
class Stack:
    """What one stack of layers returned, and which of its tokens count.

    Attributes:
        states: hidden states `[B, T, D]` of each layer, embeddings first; empty where there are none.
        maps: attention maps `[B, H, Q, K]` of each layer; empty where there are none.
        queries: bool `[B, Q]`, false at padding.
        keys: bool `[B, K]`, false at padding.
        causal: whether a query attends to no key after it.
        documents: int64 `[B, T]`, a number per document in a row; None: a row is one document.
    """

    states: Sequence[Tensor]
    maps: Sequence[Tensor]
    queries: Tensor
    keys: Tensor
    causal: bool = False
    documents: Tensor | None = None

    @property
    def pairs(self) -> Tensor:
        """Bool `[B, Q, K]`: kept queries with kept keys, those that a causal mask hides included."""
        return self.queries[:, :, None] & self.keys[:, None, :]

    @property
    def visible(self) -> Tensor:
        """Bool `[B, Q, K]`: `pairs` without the keys that a query does not attend to."""
        pairs = self.pairs.tril() if self.causal else self.pairs
        if self.documents is None:
            return pairs
        return pairs & (self.documents[:, :, None] == self.documents[:, None, :])


def is_a(model: PreTrainedModel, names: Container[str]) -> bool:
    """Whether the class of a model, or one that it derives from, has one of these names."""
    return any(kind.__name__ in names for kind in type(model).__mro__)


class Task(ABC):
    """A kind of model as training sees it: what its batches hold, and which of its outputs are compared."""

    kind: ClassVar[str]
    """Its name in records and messages."""

    @abstractmethod
    def takes(self, model: PreTrainedModel) -> bool:
        """Whether a model is of this kind."""

    def with_labels(self, inputs: Inputs) -> dict[str, Any]:
        """The arguments of a forward that works out the loss on labels."""
        return dict(inputs)

    @abstractmethod
    def without_labels(self, inputs: Inputs, model: PreTrainedModel) -> dict[str, Any]:
        """The arguments of a forward that gives the same outputs, but works out no loss."""

    @abstractmethod
    def scored(self, inputs: Inputs) -> Tensor:
        """Bool mask of the predictions in which the student follows the teacher."""

    def tokens(self, inputs: Inputs) -> Tensor:
        """The number of tokens that are read and predicted, without padding; a scalar."""
        mask, written = inputs.get("attention_mask"), self.scored(inputs).sum()
        return written if mask is None else written + mask.sum()

    @abstractmethod
    def logits(self, outputs: Any, inputs: Inputs) -> Tensor:
        """The logits `[N, V]` of the N predictions that `scored` marks."""

    @abstractmethod
    def stacks(self, outputs: Any, inputs: Inputs) -> dict[str, Stack]:
        """The outputs of every stack of layers, by name."""

    @abstractmethod
    def stack_of(self, module: str) -> str:
        """The name of the stack whose tokens the attention module of this dotted name reads."""

    def labelled(self, inputs: Inputs) -> Tensor:
        """Bool mask of the predictions that count for the loss on labels."""
        return self.scored(inputs)

    def check_model(self, model: PreTrainedModel) -> None:  # noqa: B027
        """Refuse a model of this kind that cannot be trained; most can.

        Raises:
            TrainingError: it cannot.
        """

    def check_batch(self, model: PreTrainedModel, inputs: Inputs) -> None:  # noqa: B027
        """Refuse a model that reads the first batch otherwise than it is meant; most kinds need no check.

        Raises:
            TrainingError: it does.
        """
