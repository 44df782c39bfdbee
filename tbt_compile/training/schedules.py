"""What changes from step to step besides the learning rate: relaxations, weight decay, averages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer
from tbt_compile.quantizers.ops import widened
from tbt_compile.quantizers.relaxation import Blend, Relaxation, SoftLevels
from tbt_compile.training.settings import TrainingError, TrainSettings

FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.0, 0.01
"""Of `SoftLevels`: at the first, levels that are a scale apart mix; at the last they do not."""
AVERAGE = "average.safetensors"
"""The file in a checkpoint that holds the averaged weights."""


def schedules(settings: TrainSettings) -> list[TrainerCallback]:
    """The callbacks that settings ask for."""
    found: list[TrainerCallback] = []
    if settings.quantization_warmup:
        found.append(Relaxed(settings.quantization_warmup, Blend, blended))
    if settings.soft_weights:
        found.append(Relaxed(settings.soft_weights, soft_levels, soft))
    if settings.decay_share < 1:
        found.append(DecayEnds(settings.decay_share))
    if settings.average:
        found.append(Averaged(settings.average))
    return found


def blended(module: nn.Module) -> bool:
    """Whether a module takes part in the warm-up of quantization: weights, and learned activations."""
    if isinstance(module, ActivationQuantizer):
        return module.learned
    return isinstance(module, WeightQuantizer) and module.packs


def soft(module: nn.Module) -> bool:
    """Whether a module can have soft levels: weights of one or two bits."""
    return isinstance(module, WeightQuantizer) and module.packs and bool(module.encoding.planes)


def soft_levels(share: float) -> Relaxation:
    """Soft levels whose temperature has fallen by a share of the way, evenly in its logarithm."""
    return SoftLevels(FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** share)


class Relaxed(TrainerCallback):
    """Relaxes quantizers for the first part of a training, less from step to step, then no longer.

    Args:
        part: of all steps.
        relaxation: from the share of that part that has passed.
        chosen: the quantizers.
    """

    def __init__(
        self, part: float, relaxation: Callable[[float], Relaxation], chosen: Callable[[nn.Module], bool]
    ) -> None:
        self.part, self.relaxation, self.chosen = part, relaxation, chosen

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Relax the quantizers for the step that begins.

        Args:
            args, control: unused.
            state: of the trainer.
            model: that trains.
        """
        share = state.global_step / (self.part * state.max_steps)
        self._relax(model, self.relaxation(share) if share < 1 else None)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Leave no relaxation behind.

        Args:
            args, state, control: unused.
            model: that trained.
        """
        self._relax(model, None)

    def _relax(self, model: nn.Module, relaxation: Relaxation | None) -> None:
        for module in model.modules():
            if self.chosen(module):
                module.relaxation = relaxation  # type: ignore[assignment]


class DecayEnds(TrainerCallback):
    """Weight decay in the first part of a training only (Ma et al. 2024, BitNet b1.58 training tips).

    Args:
        part: of all steps.
    """

    def __init__(self, part: float) -> None:
        self.part = part

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Turn weight decay off when its part is over.

        Args:
            args, control: unused.
            state: of the trainer.
            optimizer: whose groups have a weight decay.
        """
        if state.global_step >= self.part * state.max_steps:
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0


class Averaged(TrainerCallback):
    """Leaves the exponential moving average of the parameters in the model at the end.

    It is kept in float32: a step of an average is too small for half precision.

    Args:
        decay: the weight of the average so far in each step.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take up the average of the checkpoint, if there is one.

        Args:
            args, state: of the trainer.
            control: unused.

        Raises:
            TrainingError: the checkpoint has no average.
        """
        if not state.global_step:
            self.average = {}
            return
        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGE
        if not file.is_file():
            raise TrainingError(
                f"{file.parent} has no {AVERAGE}: start over (--no-resume; in Python resume=False)"
            )
        self.average = load_file(file)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Take a step into the average.

        Args:
            args, state, control: unused.
            model: that trains.
        """
        for name, parameter in model.named_parameters():
            now = widened(parameter.detach())
            if name in self.average:
                self.average[name] = self.average[name].to(now.device).lerp_(now, 1 - self.decay)
            else:
                self.average[name] = now.clone()

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Put the average into the model.

        Args:
            args, state, control: unused.
            model: that trained.
        """
        for name, parameter in model.named_parameters():
            parameter.copy_(self.average[name])

    def save(self, folder: str | Path) -> None:
        """Save the average with the rest of a checkpoint.

        Args:
            folder: of the checkpoint.
        """
        save_file({name: mean.contiguous() for name, mean in self.average.items()}, Path(folder) / AVERAGE)
