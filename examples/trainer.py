"""Distil a student with `DistillationTrainer`, a `Seq2SeqTrainer` with a teacher."""

from __future__ import annotations

import copy
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BartConfig, BartForConditionalGeneration, Seq2SeqTrainingArguments

import tbt_compile
from tbt_compile.training import DistillationTrainer, LossWeights


class Copying(Dataset[dict[str, torch.Tensor]]):
    """A copy task: the target repeats a source of random tokens."""

    def __init__(self, size: int) -> None:
        self.ids = torch.randint(3, 100, (size, 12), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def main(steps: int = 20) -> None:
    """Distil a 2-2-2 student from a teacher, here a random one in place of a fine-tuned model."""
    config = BartConfig(
        vocab_size=100,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=32,
    )
    teacher = BartForConditionalGeneration(config)
    student = tbt_compile.prepare(copy.deepcopy(teacher), recipe="2-2-2")
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            report_to="none",
            dataloader_pin_memory=False,
        )
        weights = LossWeights(logits=1.0, hidden=1.0)
        trainer = DistillationTrainer(
            student, teacher, arguments, train_dataset=Copying(256), weights=weights
        )
        print(f"mean loss {trainer.train().training_loss:.3f}")
    print(tbt_compile.freeze(student.eval()))


if __name__ == "__main__":
    main()
