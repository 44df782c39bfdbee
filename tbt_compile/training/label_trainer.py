"""`LabelTrainer`: trains models of every task on labels, counts tokens, and says what a full memory needs."""

from __future__ import annotations

import inspect
import math
import time
from typing import Any

import numpy as np
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedModel, Seq2SeqTrainer

from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.data.examples import IGNORED_LABEL, RowDataset
from tbt_compile.data.limits import check_rows
from tbt_compile.quantizers import ActivationQuantizer
from tbt_compile.training import processes
from tbt_compile.training.losses import NO_LABELS, label_loss
from tbt_compile.training.progress import memory_gib
from tbt_compile.training.settings import TrainingError
from tbt_compile.training.shares import Part
from tbt_compile.training.tasks import Inputs, task_of


class LabelTrainer(Seq2SeqTrainer):
    """`Seq2SeqTrainer` whose loss is the mean over all tokens of a batch.

    That holds for any number of processes and steps of gradient accumulation.

    Models of every task are trained: those without an encoder too. Logs have `tokens_per_second` and
    `memory_gib` besides the loss.

    Raises:
        DataError: an example does not fit the model, see `check_rows`.
        TrainingError: labels are to be smoothed, or there are none.

    Attributes:
        task: of the model.
        tokens: that this process has read and predicted since it was started.
    """

    def __init__(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        self.task = task_of(whole_model(model))
        super().__init__(model, *args, **kwargs)
        for dataset in (self.train_dataset, self.eval_dataset):
            check_rows(whole_model(model), dataset)
        if self.args.label_smoothing_factor:
            raise TrainingError(
                f"label_smoothing_factor={self.args.label_smoothing_factor}: the loss on labels here is the "
                "model's own; leave it out"
            )
        # BART accepts `num_items_in_batch` but ignores it; the trainer would scale the loss as if it did not.
        # The loss is a mean, so the trainer has to divide it by the gradient accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._unchecked: list[PreTrainedModel] = [whole_model(model)]
        self.tokens: Any = 0
        self._started: float | None = None
        self._steps: list[Any] = []
        self._unlabelled = self.reads_labels() and not has_labels(self.train_dataset)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the batches of the next steps of gradient accumulation: their tokens weigh equally.

        Args:
            args, kwargs: of the overridden method.
        """
        self._steps, items = super().get_batch_samples(*args, **kwargs)
        return self._steps, items

    def part(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch as a part of what one update is made of.

        Args:
            model: in training mode, or the batch is whole.
            inputs: the batch.
        """
        return Part(inputs, self._steps) if model.training and len(self._steps) > 1 else inputs

    def reads_labels(self) -> bool:
        """Whether the loss on labels has a weight."""
        return True

    def figures(self) -> dict[str, Any]:
        """What the record of a finished run says besides its loss, JSON-ready."""
        return {}

    def tokens_per_second(self) -> float:
        """The tokens of all processes per second of training, since this one was started."""
        if self._started is None:
            return 0.0
        return float(self.tokens) * processes.count() / (time.perf_counter() - self._started)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what `Seq2SeqTrainer` does, and with a loss the speed and the memory.

        Args:
            logs: figures.
            args, kwargs: further arguments of the overridden method.
        """
        if "loss" in logs:
            logs = {**logs, "tokens_per_second": self.tokens_per_second(), "memory_gib": memory_gib()}
        super().log(logs, *args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """A step of `Seq2SeqTrainer`; before the first, `Task.check_batch`.

        Args:
            model, inputs: as for `compute_loss`.
            args, kwargs: further arguments of the overridden method.

        Raises:
            TrainingError: see `Task.check_batch`; or there is not enough memory for the batch.
        """
        while self._unchecked:
            self.task.check_batch(self._unchecked.pop(), inputs)
        self._started = self._started or time.perf_counter()
        try:
            loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
            self._scale_gradients()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise TrainingError(self._out_of_memory(inputs)) from error
        self.tokens = self.tokens + self.task.tokens(inputs)
        return loss

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # Packed texts have them; `check_batch` refuses a model that takes none.
        self._signature_columns: Any = [*self._signature_columns, "position_ids"]

    def _scale_gradients(self) -> None:
        """Divide the gradients of learned scales and offsets by the root of the number of steps of an update.

        LSQ divides them by the root of the number of values, of which each step counts its own.
        """
        steps = len(self._steps)
        if steps < 2 or not self.accelerator.sync_gradients:
            return
        for quantizer in self.model.modules():
            for parameter in quantizer.divided if isinstance(quantizer, ActivationQuantizer) else ():
                if parameter.grad is not None:
                    parameter.grad.div_(math.sqrt(steps))

    def _check_labels(self, inputs: Inputs) -> None:
        """Refuse a data set of one's own whose first update has no label; ours are looked at whole."""
        if not self._unlabelled:
            return
        steps = inputs.steps if isinstance(inputs, Part) else [inputs]
        if not any(bool(self.task.labelled(step).any()) for step in steps):
            raise TrainingError(NO_LABELS)
        self._unlabelled = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (part of the overridden signature)
    ) -> Any:
        """Cross-entropy with `labels`, without padding.

        Args:
            model: the model that is trained.
            inputs: a batch with `labels`.
            return_outputs: whether to return the model's outputs too.
            num_items_in_batch: unused.

        Returns:
            The loss, or (loss, outputs).
        """
        inputs = self.part(model, inputs)
        self._check_labels(inputs)
        outputs = model(**self.task.with_labels(inputs))
        loss = label_loss(outputs, inputs, self.task)
        return (loss, outputs) if return_outputs else loss

    def savings(self) -> list[str]:
        """What takes memory in a step besides the model, and can be made smaller, in words."""
        return ["the batch size", "the lengths of sources and targets"]

    def _out_of_memory(self, inputs: dict[str, Any]) -> str:
        known = inspect.signature(self.model.forward).parameters
        shapes = ", ".join(f"{name} {list(inputs[name].shape)}" for name in inputs if name in known)
        *others, last = self.savings()
        return (
            f"not enough memory for a step on {shapes}; {memory_gib():.1f} GiB were taken: lower "
            f"{', '.join(others)} or {last}"
        )


def has_labels(dataset: Any) -> bool:
    """Whether some row of a data set of this package has a label.

    Returns:
        False of other data sets, of which nothing is known.

    Raises:
        TrainingError: no row has.
    """
    if not isinstance(dataset, RowDataset):
        return False
    if any(np.any(np.asarray(row.get("labels", IGNORED_LABEL)) != IGNORED_LABEL) for row in dataset.rows):
        return True
    raise TrainingError(NO_LABELS)


def whole_model(model: Any) -> PreTrainedModel:
    """The transformers model inside the wrappers of training code.

    Raises:
        PlanError: it is sharded, or has adapters that are not merged.
        TrainingError: it is not a transformers model.
    """
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise TrainingError(f"a {type(inner).__name__} cannot be trained here: expected a transformers model")
    return inner
