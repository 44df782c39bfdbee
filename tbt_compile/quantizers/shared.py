"""Weight quantizers with a state of their own, which modules that share a weight have to share too."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from tbt_compile.quantizers.ops import QuantTensor
from tbt_compile.quantizers.weights import WeightQuantizer


class StatefulWeightQuantizer(WeightQuantizer, ABC):
    """A weight quantizer with parameters. The quantizer of a tied weight follows that of its first owner.

    The state is then kept once, by the leader: a follower has no parameters.
    """

    def follow(self, leader: StatefulWeightQuantizer) -> None:
        """Give up the own state for the leader's."""
        for name in list(self._parameters):
            del self._parameters[name]
        for name in list(self._buffers):
            del self._buffers[name]
        self.__dict__["leader"] = leader  # no child: its state would be saved twice

    def forward(self, weight: Tensor) -> QuantTensor:
        return self.__dict__.get("leader", self).quantize(weight)

    @abstractmethod
    def quantize(self, weight: Tensor) -> QuantTensor:
        """The quantized weight `[N, K]`, by the own state."""
