"""The engine of this package: a random model, calibrated on one text, frozen, compiled and loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tbt_compile.bench.bitnet_files import write_folder
from tbt_compile.bench.engines import check_counts
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import (
    Shape,
    get_shape,
    padded,
    random_model,
    source_ids,
    source_texts,
)
from tbt_compile.recipe import Recipe


def available(_job: Job) -> str:
    """Always available."""
    return ""


def build(job: Job) -> None:
    """Compile to a folder, in a separate process: the measured process never imports PyTorch."""
    import tbt_compile

    shape = get_shape(job.shape)
    frozen = _released(job, shape) if shape.family == "bitnet" else _calibrated(job, shape)
    count = job.shortlist
    shortlist = [index * shape.vocab_size // count for index in range(count)] if count else None
    lowered = tbt_compile.lower(frozen, target=job.target, shortlist=shortlist, clock=job.clock)
    lowered.save(folder_of(job))


def _released(job: Job, shape: Shape) -> Any:
    """A BitNet checkpoint as it is, or with its embedding and attention in 8 bits."""
    import tbt_compile

    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        checkpoint = write_folder(Path(folder) / "checkpoint", shape)
        bits = 8 if Recipe.parse(job.recipe).embedding_bits == 8 else None
        return tbt_compile.from_pretrained(checkpoint, embedding_bits=bits, attention_bits=bits)


def _calibrated(job: Job, shape: Shape) -> Any:
    """A random model that has seen one text."""
    import torch

    import tbt_compile

    model = tbt_compile.prepare(random_model(shape), recipe=job.recipe)
    ids = torch.tensor([source_ids(shape, min(64, job.source_length))])
    model.train()
    with torch.no_grad():
        # The first batch initializes the activation scales.
        decoder = {} if shape.decoder_only else {"decoder_input_ids": ids}
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder)
    return tbt_compile.freeze(model.eval())


def load(job: Job) -> CompiledRunner:
    """Load the compiled folder."""
    return CompiledRunner(job)


class CompiledRunner:
    """A compiled model and its source texts."""

    def __init__(self, job: Job) -> None:
        import numpy as np

        import tbt_compile

        folder = folder_of(job)
        self.size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self.model = tbt_compile.load(folder, num_threads=job.threads)
        shape = get_shape(job.shape)
        texts = source_texts(shape, job.source_length, job.batch, job.mixed)
        self.ids, self.mask = (np.array(rows, dtype=np.int64) for rows in padded(texts, shape.decoder_only))
        self.before = self.ids.shape[1] if shape.decoder_only else 1
        self.beams = job.beams

    def generate(self, count: int) -> None:
        """Run greedy or beam search without the end token until `count` tokens are generated."""
        made = self.model.generate(
            self.ids,
            attention_mask=self.mask,
            num_beams=self.beams,
            max_new_tokens=count,
            min_new_tokens=count,
        )
        check_counts([len(row) - self.before for row in made], len(self.ids), count)


def folder_of(job: Job) -> Path:
    """The folder of the compiled model."""
    return Path(job.folder) / "compiled"
