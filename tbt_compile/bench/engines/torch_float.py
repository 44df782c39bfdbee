"""PyTorch in single precision: the model as `transformers` makes it."""

from __future__ import annotations

from typing import Any

from tbt_compile.bench.job import Job
from tbt_compile.bench.shapes import get_shape, random_model, source_ids


def available() -> str:
    """PyTorch is a dependency of this package."""
    return ""


def build(job: Job) -> None:
    """Nothing to prepare: the weights are random."""


def load(job: Job) -> TorchRunner:
    """The model as it is."""
    model = random_model(get_shape(job.shape))
    return TorchRunner(model, job, sum(parameter.nbytes for parameter in model.parameters()))


class TorchRunner:
    """A model with a bare greedy loop around it.

    `model.generate` adds one to two milliseconds a token; the peers are to be measured at their best.
    """

    def __init__(self, model: Any, job: Job, size_bytes: int) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self.model = model
        self.size_bytes = size_bytes
        self.ids = torch.tensor([source_ids(get_shape(job.shape), job.source_length)])
        self.mask = torch.ones_like(self.ids)

    def generate(self, count: int) -> None:
        """Encode, then `count` decoder steps on a cache."""
        import torch

        with torch.inference_mode():
            encoded = self.model.get_encoder()(input_ids=self.ids, attention_mask=self.mask)
            token = torch.full((1, 1), self.model.config.decoder_start_token_id)
            cache = None
            for _ in range(count):
                step = self.model(
                    encoder_outputs=encoded,
                    attention_mask=self.mask,
                    decoder_input_ids=token,
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = step.past_key_values
                token = step.logits[:, -1:].argmax(-1)
