"""The distillation objective: loss weights, a method's further loss terms, and the layer mapping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from tbt_compile.training.settings import LossWeights

Measure = Callable[[Any, Any, Mapping[str, Tensor]], Tensor]
"""Computes a term on one batch: (student's outputs, teacher's outputs, inputs with labels) -> scalar."""


class Watch:
    """Forward hooks that keep the last output of modules, until `stop`."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __call__(self, module: nn.Module) -> Callable[[], Any]:
        """Watch a module.

        Returns:
            A function that returns the module's last output.
        """
        last: list[Any] = []

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            last[:] = [output]

        self._handles.append(module.register_forward_hook(hook))
        return lambda: last[0]

    def stop(self) -> None:
        """Remove the hooks, which copies of the modules would inherit."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class Term(ABC):
    """A further loss term. Its fields determine it, so its repr identifies it in the record of a run."""

    weight: float

    @abstractmethod
    def bind(self, student: nn.Module, teacher: nn.Module, watch: Watch) -> Measure:
        """Bind the term to two models, for example by watching their inner modules.

        Args:
            student: a prepared model.
            teacher: the full-precision model.
            watch: call it on modules whose outputs the term reads.

        Returns:
            The function that computes the unweighted term on a batch: a mean over kept values, times
            `shares.weight` of them.
        """


@dataclass(frozen=True)
class LayerMap:
    """The teacher's layer that initializes and supervises each layer of a shallower student.

    Attributes:
        encoder, decoder: indices of the teacher's layers, one per student layer.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    def select(self, outputs: Any) -> SimpleNamespace:
        """The teacher's outputs, reduced to the mapped layers; hidden states keep the embeddings in front."""
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
    """The loss of a student.

    Attributes:
        weights: of the terms common to all methods.
        terms: further terms.
        layers: the teacher's layers that supervise the student's; None: layer i supervises layer i.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    terms: tuple[Term, ...] = ()
    layers: LayerMap | None = None

    def to_dict(self) -> dict[str, Any]:
        """The further terms and the layer map, JSON-ready, for the record of a run."""
        values: dict[str, Any] = {"terms": [repr(term) for term in self.terms]} if self.terms else {}
        return values | ({"layers": repr(self.layers)} if self.layers else {})
