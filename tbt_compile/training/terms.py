"""Further terms of a distillation loss, as methods ask for them, and which layers are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from tbt_compile.training.settings import LossWeights

Measure = Callable[[Any, Any, Mapping[str, Tensor]], Tensor]
"""The term on one batch: (student's outputs, teacher's outputs, inputs with labels) -> scalar."""


class Watch:
    """Keeps what modules returned last, until `stop`."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __call__(self, module: nn.Module) -> Callable[[], Any]:
        """A function that gives the last output of the module."""
        last: list[Any] = []

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            last[:] = [output]

        self._handles.append(module.register_forward_hook(hook))
        return lambda: last[0]

    def stop(self) -> None:
        """Leave the modules as they were: copies of them must not be watched."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class Term(ABC):
    """A term of the loss. Its fields say all about it, so that they can stand in the record of a run."""

    weight: float

    @abstractmethod
    def bind(self, student: nn.Module, teacher: nn.Module, watch: Watch) -> Measure:
        """Prepare to measure these two models, for example by watching what their inner modules return.

        What it measures is a mean over kept values times `processes.weight` of them.
        """


@dataclass(frozen=True)
class LayerMap:
    """For each layer of a shallower student, the layer of the teacher that it starts from and follows."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    def select(self, outputs: Any) -> SimpleNamespace:
        """The outputs of the teacher as those of a model that has only these layers.

        Hidden states have the embeddings before the first layer.
        """
        chosen = SimpleNamespace(logits=outputs.logits, loss=outputs.loss)
        for side, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            states = getattr(outputs, f"{side}_hidden_states")
            setattr(chosen, f"{side}_hidden_states", _pick(states, [-1, *layers], 1))
            setattr(chosen, f"{side}_attentions", _pick(getattr(outputs, f"{side}_attentions"), layers, 0))
        chosen.cross_attentions = _pick(outputs.cross_attentions, self.decoder, 0)
        return chosen


def _pick(tensors: Sequence[Tensor] | None, layers: Sequence[int], offset: int) -> list[Tensor] | None:
    return None if tensors is None else [tensors[layer + offset] for layer in layers]


@dataclass(frozen=True)
class Objective:
    """What a student is trained for.

    Attributes:
        weights: of the terms that every method can have.
        terms: further ones.
        layers: which of the teacher's layers the student's are compared with; all, when None.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    terms: tuple[Term, ...] = ()
    layers: LayerMap | None = None

    def to_dict(self) -> dict[str, Any]:
        """What there is beyond the weights, as JSON-ready values for the record of a run."""
        values: dict[str, Any] = {"terms": [repr(term) for term in self.terms]} if self.terms else {}
        return values | ({"layers": repr(self.layers)} if self.layers else {})
