"""Transcripts of a speech model, eager or compiled, and their word error rate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.recordings import Recording
from tbt_compile.evaluation.generation import runner
from tbt_compile.evaluation.scores import word_error_rate
from tbt_compile.progress import Progress


@dataclass(frozen=True)
class Transcription:
    """The word error rate of transcripts, in percent, with the seconds it took to write them."""

    wer: float
    sentences: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON-ready values."""
        return asdict(self)


def evaluate_speech(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    recordings: Sequence[Recording],
    max_new_tokens: int,
    *,
    name: str = "input_features",
    num_beams: int = 1,
    batch_size: int = 8,
    progress: Progress | None = None,
    title: str = "evaluating",
) -> tuple[Transcription, list[str]]:
    """Transcribe recordings and compare with their texts.

    Args:
        model: a transformers model, prepared or not, a `FrozenModel`, or a `CompiledModel`.
        tokenizer: of the model.
        recordings: features and reference texts.
        max_new_tokens: after which a transcript ends.
        name: the argument of `generate` that takes the features.
        num_beams: beams of the search; 1 is greedy.
        batch_size: recordings per batch.
        progress: called with `title` and the share that is done.
        title: of the progress reports.

    Returns:
        The score, and the transcripts.
    """
    model = runner(model)
    options = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    texts: list[str] = []
    start = time.perf_counter()
    for first in range(0, len(recordings), batch_size):
        features = np.stack([item.features for item in recordings[first : first + batch_size]])
        if isinstance(model, PreTrainedModel):
            training, inputs = model.training, torch.from_numpy(features).to(model.device, model.dtype)
            tokens: Any = model.eval().generate(**{name: inputs}, do_sample=False, **options).tolist()
            model.train(training)
        else:
            tokens = model.generate(**{name: features}, **options).tolist()
        texts += [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        if progress is not None:
            progress(title, min(1.0, (first + batch_size) / len(recordings)))
    seconds = time.perf_counter() - start
    rate = word_error_rate(texts, [item.text for item in recordings])
    return Transcription(rate, len(recordings), seconds), texts
