"""One training run in one folder: resumable, quiet, reporting its progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)
from transformers.trainer_utils import set_seed

from tbt_compile.data import PairCollator, PairDataset
from tbt_compile.evaluation.generation import Progress
from tbt_compile.training.order import TrainingOrder
from tbt_compile.training.progress import TrainerProgress, quiet, silence
from tbt_compile.training.record import CHECKPOINTS, TrainingRecord
from tbt_compile.training.settings import TrainSettings


def fit(
    model: PreTrainedModel,
    dataset: PairDataset,
    tokenizer: PreTrainedTokenizerBase,
    record: TrainingRecord,
    settings: TrainSettings,
    *,
    trainer_class: type[Seq2SeqTrainer] = Seq2SeqTrainer,
    progress: Progress | None = None,
    title: str = "training",
    callbacks: Sequence[TrainerCallback] = (),
    **trainer_options: Any,
) -> PreTrainedModel:
    """Train `model` in place, going on from the newest checkpoint of the record's folder, and save it there.

    A run that was killed and taken up again ends with the same weights as one that was not: checkpoints
    hold the optimizer, the learning rate's schedule and the random numbers, and the order of the data
    depends on the seed alone.
    """
    steps = settings.total_steps(len(dataset))
    order = TrainingOrder([len(row) for row in dataset.inputs], settings.batch_size, steps, settings.seed)
    trainer = _with_order(trainer_class, order)(
        model,
        args=_arguments(record.folder, settings, steps),
        data_collator=PairCollator(int(tokenizer.pad_token_id or 0)),
        train_dataset=dataset,
        callbacks=[*callbacks, TrainerProgress(progress, title)],
        **trainer_options,
    )
    silence(trainer)
    set_seed(settings.seed)
    start = time.perf_counter()
    checkpoint = record.latest_checkpoint()
    with quiet():
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        model.cpu().eval().save_pretrained(record.folder)
    tokenizer.save_pretrained(record.folder)
    seconds = time.perf_counter() - start
    outcome = {
        "steps": steps,
        "loss": _last_loss(trainer),
        "mean_loss": result.training_loss,
        "seconds": seconds,
    }
    record.finish({**outcome, "resumed_at": int(checkpoint.name.rpartition("-")[2]) if checkpoint else None})
    return model


def _arguments(folder: Path, settings: TrainSettings, steps: int) -> Seq2SeqTrainingArguments:
    return Seq2SeqTrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_share * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        save_steps=settings.save_every,
        save_total_limit=1,
        logging_steps=20,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


def _with_order(trainer_class: type[Seq2SeqTrainer], order: TrainingOrder) -> type[Seq2SeqTrainer]:
    """The trainer class with its order of examples replaced: the whole run is one pass over `order`."""

    class Ordered(trainer_class):
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ARG002
            return order

    return Ordered


def _last_loss(trainer: Seq2SeqTrainer) -> float | None:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[-1] if losses else None
