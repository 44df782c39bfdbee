"""PyTorch fp32: the unmodified `transformers` model."""

from __future__ import annotations

from typing import Any

from tbt_compile.bench.engines import check_counts
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import get_shape, padded, random_model, source_texts


def available(_job: Job) -> str:
    """Always available: benchmarks need PyTorch anyway."""
    return ""


def build(job: Job) -> None:
    """Do nothing: the weights are random."""


def load(job: Job) -> TorchRunner:
    """Make the model."""
    model = random_model(get_shape(job.shape))
    return TorchRunner(model, job, sum(parameter.nbytes for parameter in model.parameters()))


class TorchRunner:
    """A PyTorch model with a bare greedy loop, or with `model.generate` for beam search.

    `model.generate` adds one to two milliseconds per token, so greedy search avoids it to measure the peer at
    its best. For beam search nothing leaner is in common use, and its overhead is part of the figures.
    """

    def __init__(self, model: Any, job: Job, size_bytes: int) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self.model = model
        self.size_bytes = size_bytes
        shape = get_shape(job.shape)
        texts = source_texts(shape, job.source_length, job.batch, job.mixed)
        self.ids, self.mask = map(torch.tensor, padded(texts, shape.decoder_only))
        self.decoder_only = shape.decoder_only
        self.beams = job.beams

    def generate(self, count: int) -> None:
        """Encode, then run `count` cached decoder steps; the end token is not special."""
        import torch

        with torch.inference_mode():
            if self.beams > 1:
                self._search(count)
                return
            if self.decoder_only:
                self._continue(count)
                return
            encoded = self.model.get_encoder()(input_ids=self.ids, attention_mask=self.mask)
            token = torch.full((len(self.ids), 1), self.model.config.decoder_start_token_id)
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

    def _continue(self, count: int) -> None:
        import torch

        mask, token, cache = self.mask, self.ids, None
        for _ in range(count):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -token.shape[1] :]
            step = self.model(
                input_ids=token,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = step.past_key_values
            token = step.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)

    def _search(self, count: int) -> None:
        made = self.model.generate(
            self.ids,
            attention_mask=self.mask,
            do_sample=False,
            num_beams=self.beams,
            min_new_tokens=count,
            max_new_tokens=count,
        )
        before = self.ids.shape[1] if self.decoder_only else 1
        check_counts([len(row) - before for row in made], len(self.ids), count)
