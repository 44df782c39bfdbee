"""The training loop of one run: one folder, resumable, in one process or several."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)
from transformers.trainer_utils import set_seed

from tbt_compile.data.examples import Examples
from tbt_compile.storage.os_errors import writing
from tbt_compile.training import processes
from tbt_compile.training.interrupt import SaveOnInterrupt
from tbt_compile.training.label_trainer import LabelTrainer
from tbt_compile.training.order import TrainingOrder
from tbt_compile.training.progress import TrainerProgress, quiet, silence
from tbt_compile.training.record import CHECKPOINTS, TrainingRecord
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.schedules import Averaged, schedules
from tbt_compile.training.settings import TrainingError, TrainSettings
from tbt_compile.training.shared_scales import shared_scales

LOGGING_WINDOW = 20
"""Steps per logged mean loss; fewer if this does not divide the steps between checkpoints."""


def fit(
    model: PreTrainedModel,
    corpus: Examples,
    record: TrainingRecord,
    run: TrainingRun,
    *,
    trainer_class: type[Seq2SeqTrainer] = LabelTrainer,
    callbacks: Sequence[TrainerCallback] = (),
    **trainer_options: Any,
) -> PreTrainedModel:
    """Train a model, resuming from the newest checkpoint in the record's folder, and save it there.

    A resumed run ends with the same weights as an uninterrupted one: checkpoints hold the optimizer, the
    learning-rate schedule and the random state, and the data order depends only on the lengths, the settings
    and the seed. Ctrl-C saves one after the step and stops there.

    Under `torchrun` each process takes its share of every batch, and the first one writes the files.

    Args:
        model: trained in place.
        corpus: the training examples.
        record: the record of the run, already opened.
        run: settings, progress callback and title; its folder is that of `record`.
        trainer_class: the trainer, which defines the loss.
        callbacks: further trainer callbacks.
        trainer_options: further arguments of `trainer_class`.

    Returns:
        The model, on the CPU and in evaluation mode.

    Raises:
        TrainingError: the batch size is not a multiple of the number of processes, or the training diverged;
            the folder then holds no model.
    """
    dataset, collator, settings = corpus.dataset(), corpus.collator(), run.settings
    processes.wait()  # the first process may be removing old checkpoints
    steps = run.steps(len(dataset))
    order = TrainingOrder(dataset.lengths, settings.batch_size, steps, settings.seed)
    trainer = _with_order(trainer_class, order)(
        model,
        args=_arguments(record.folder, settings, steps),
        data_collator=collator,
        train_dataset=dataset,
        callbacks=[*schedules(settings), *callbacks],
        **trainer_options,
    )
    trainer.add_callback(TrainerProgress(run.progress, run.title, trainer.tokens_per_second))
    interrupt = SaveOnInterrupt(run.progress)
    trainer.add_callback(interrupt)
    silence(trainer)
    checkpoint = record.latest_checkpoint()
    first = None if checkpoint else collator([dataset[index] for index in islice(order, settings.batch_size)])
    with interrupt.watching():
        with quiet(), shared_scales(model, first):
            # The processes see different examples, so their dropout masks have to differ too.
            set_seed(settings.seed + processes.rank())
            start = time.perf_counter()
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        outcome = {
            "steps": steps,
            "loss": _last_loss(trainer),
            "seconds": time.perf_counter() - start,
            "resumed_at": int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
            **trainer.figures(),
        }
        model.cpu().eval()
        check_finite(model)
        if processes.is_first():
            with writing(record.folder):
                # A model killed while it is saved over another must not load as half of each.
                record.remove_weights()
                corpus.save(record.folder)
                with quiet():
                    model.save_pretrained(record.folder)
            record.finish(outcome)
    processes.wait()
    return model


def check_finite(model: PreTrainedModel) -> None:
    """Refuse a model that training has destroyed.

    Raises:
        TrainingError: a parameter is NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise TrainingError(
                f"the training diverged: {name} holds values that are no numbers; lower the learning rate or "
                "check the weights of the losses, and start over (--no-resume; in Python resume=False) or "
                "choose another folder"
            )


def _arguments(folder: Path, settings: TrainSettings, steps: int) -> Seq2SeqTrainingArguments:
    share, rest = divmod(settings.batch_size, processes.count())
    if rest:
        raise TrainingError(
            f"a batch of {settings.batch_size} cannot be divided among {processes.count()} processes: choose "
            "a multiple of the number of processes"
        )
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        use_cpu=processes.device().type == "cpu",
        max_steps=steps,
        per_device_train_batch_size=share,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_share * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        save_steps=settings.save_every,
        save_total_limit=1,
        # Checkpoints fall on the end of a logging window, so a resumed run logs the same means.
        logging_steps=math.gcd(LOGGING_WINDOW, settings.save_every),
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )
    # One GPU per process: with more, the trainer would multiply the batch size and use DataParallel.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _with_order(trainer_class: type[Seq2SeqTrainer], order: TrainingOrder) -> type[Seq2SeqTrainer]:
    """A subclass whose sampler is `order`: the whole run is one pass over it.

    A checkpoint that the system refuses is a `WriteError`; the one before stays.
    """

    class Ordered(trainer_class):
        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            with writing(str(self.args.output_dir)):
                super()._save_checkpoint(*args, **kwargs)

        def _save_optimizer_and_scheduler(self, output_dir: Any) -> None:
            # Before `trainer_state.json`, which makes a checkpoint whole, and before older ones are removed.
            super()._save_optimizer_and_scheduler(output_dir)
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, Averaged) and processes.is_first():
                    callback.save(output_dir)

        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ARG002
            return order

    return Ordered


def _last_loss(trainer: Seq2SeqTrainer) -> float | None:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[-1] if losses else None
