"""CTranslate2 with int8 weights, converted by its own converter (the `bench` extra)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tbt_compile.bench.engines import check_counts
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import Shape, get_shape, random_model, source_texts


def available(_job: Job) -> str:
    """The reason that the engine cannot run: ctranslate2, an optional dependency, is missing."""
    found = importlib.util.find_spec("ctranslate2") is not None
    return "" if found else "ctranslate2 is not installed; pip install 'tbt-compile[bench]' brings it"


def build(job: Job) -> None:
    """Save a random model with a matching tokenizer, and convert it."""
    from ctranslate2.converters import TransformersConverter

    shape = get_shape(job.shape)
    source = Path(job.folder) / "transformers"
    model = random_model(shape)
    # The converter reads these two fields, which `transformers` no longer writes.
    model.config.normalize_before = shape.family == "mbart"
    model.config.normalize_embedding = True
    model.config.tokenizer_class = "PreTrainedTokenizerFast"
    model.save_pretrained(source)
    _tokenizer(shape).save_pretrained(source)
    TransformersConverter(str(source)).convert(str(_converted(job)), quantization="int8")


def load(job: Job) -> CTranslateRunner:
    """Load the converted model."""
    return CTranslateRunner(job)


class CTranslateRunner:
    """CTranslate2's greedy or beam search, with a fixed number of tokens."""

    def __init__(self, job: Job) -> None:
        import ctranslate2

        folder = _converted(job)
        self.size_bytes = sum(file.stat().st_size for file in folder.iterdir())
        self.translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=job.threads
        )
        texts = source_texts(get_shape(job.shape), job.source_length, job.batch, job.mixed)
        self.tokens = [[_word(token) for token in text] for text in texts]
        self.beams = job.beams

    def generate(self, count: int) -> None:
        """Translate all texts as one batch."""
        results = self.translator.translate_batch(
            self.tokens,
            beam_size=self.beams,
            min_decoding_length=count,
            max_decoding_length=count,
            max_input_length=0,
        )
        check_counts([len(result.hypotheses[0]) for result in results], len(self.tokens), count)


def _converted(job: Job) -> Path:
    return Path(job.folder) / "ctranslate2"


def _word(token: int) -> str:
    special = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>"}
    return special.get(token, f"w{token}")


def _tokenizer(shape: Shape) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {_word(token): token for token in range(shape.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)
