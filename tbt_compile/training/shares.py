"""How a part of a batch weighs: one of several processes, or of several steps of gradient accumulation.

Training averages the gradients of all parts with equal weight, but they hold different numbers of tokens. A
mean over a part, times n over the mean n of all parts, averages to the mean over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tbt_compile.training import processes
from tbt_compile.training.tasks import Inputs, Stack, Task

Counted = Callable[[Inputs], Tensor]
"""Gives the bool mask of the values of a batch over which a mean is taken."""


class Part(dict[str, Any]):
    """A batch that is one of the steps of gradient accumulation.

    Attributes:
        steps: the batches of all these steps in this process, this one among them.
    """

    def __init__(self, inputs: Inputs, steps: Sequence[Inputs]) -> None:
        super().__init__(inputs)
        self.steps = steps


def weight(inputs: Inputs, counted: Counted) -> float | Tensor:
    """The factor that makes means over the parts of a batch average to the mean over the whole batch.

    Args:
        inputs: a batch, a `Part` if it is one of several steps.
        counted: what the mean is taken over.

    Returns:
        A scalar; 1.0 for a batch that is whole.
    """
    steps = inputs.steps if isinstance(inputs, Part) else [inputs]
    if len(steps) * processes.count() == 1:
        return 1.0
    here = counted(inputs).sum().float()
    everywhere = sum((counted(step).sum().to(here) for step in steps), here.new_zeros(()))
    if processes.count() > 1:
        dist.all_reduce(everywhere)
    return here * len(steps) * processes.count() / everywhere.clamp_min(1)


def of_stack(task: Task, outputs: Any, name: str, counted: Callable[[Stack], Tensor]) -> Counted:
    """What is counted in a stack of layers.

    Args:
        task: of the model.
        outputs: of the model, for the lengths that inputs do not tell.
        name: of the stack.
        counted: gives the mask of a stack.
    """
    return lambda inputs: counted(task.stacks(outputs, inputs)[name])
