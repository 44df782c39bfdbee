"""Recurrent layers of several layers and both directions against torch: PyTorch decomposes them."""

from __future__ import annotations

import pytest
import torch
from converter_tools import assert_compiles
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Recurrent layers on x `[B, 3, 4]`; the results, and the last state of one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(4, 5, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(4, 5, num_layers=2, batch_first=True)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        (x,) = inputs
        y, (hidden, _) = self.lstm(x)
        return [y, hidden, self.gru(x)[0], self.rnn(x)[0]]


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # PyTorch's own layers assign them
def test_layers_and_directions() -> None:
    torch.manual_seed(0)
    assert_compiles(Recurrent(), torch.randn(4, 3, 4))
