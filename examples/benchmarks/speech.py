"""Whisper: 30 seconds of audio to tokens, beside CTranslate2 int8 and PyTorch.

    python examples/benchmarks/speech.py --size tiny --recipes 2-2-8,2-2-2 --json speech.json

Weights are random, so that only times and sizes mean something. Every engine encodes one window of log-mel
frames and writes a fixed number of tokens greedily, in turns with the others; figures are medians. *first* is
the time of the window with one token, *token* that of each further one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tbt_compile.bench.conditions import conditions

SIZES = {"tiny": (384, 4, 6), "base": (512, 6, 8), "small": (768, 12, 12)}
"""Width, layers of encoder and decoder, heads."""
MELS, FRAMES, VOCABULARY = 80, 3000, 51865
END, START, UNTIMED = 50257, 50258, 50363
SPECIAL = {END: "<|endoftext|>", START: "<|startoftranscript|>", UNTIMED: "<|notimestamps|>"}
Run = Callable[[int], None]
"""Reads the window and writes this many tokens."""


def random_whisper(size: str) -> Any:
    """A Whisper of the given size with random weights."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    width, layers, heads = SIZES[size]
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        num_mel_bins=MELS,
        decoder_start_token_id=START,
    )
    model = WhisperForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    return model


def compiled(size: str, recipe: str, audio: np.ndarray, folder: Path, threads: int) -> tuple[Run, int]:
    """A compiled model, and its bytes on disk."""
    import tbt_compile

    model = tbt_compile.prepare(random_whisper(size), recipe)
    import torch

    with torch.no_grad():
        model.train()(input_features=torch.from_numpy(audio), decoder_input_ids=torch.full((1, 4), START))
    tbt_compile.lower(model.eval()).save(folder)
    loaded = tbt_compile.load(folder, num_threads=threads)
    bytes_on_disk = sum(file.stat().st_size for file in folder.iterdir())
    return lambda count: _checked(
        loaded.generate(input_features=audio, max_new_tokens=count, eos_token_id=None), count
    ), bytes_on_disk


def ctranslate(size: str, audio: np.ndarray, folder: Path, threads: int) -> tuple[Run, int]:
    """CTranslate2 with int8 weights, and its bytes on disk."""
    import ctranslate2
    from ctranslate2.converters.transformers import WhisperLoader

    model = random_whisper(size)
    spec = WhisperLoader().get_model_spec(model)
    spec.register_vocabulary([SPECIAL.get(token, f"w{token}") for token in range(VOCABULARY)])
    spec.config.suppress_ids = spec.config.suppress_ids_begin = []
    spec.config.lang_ids, spec.config.alignment_heads = [START + 1], [(0, 0)]
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir()
    spec.save(str(folder))
    loaded = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=threads)
    features = ctranslate2.StorageView.from_array(audio)

    def run(count: int) -> None:
        (result,) = loaded.generate(
            features,
            [[START, UNTIMED]],
            beam_size=1,
            max_length=max(2 * count, count + 2),  # half of it is for what came before
            suppress_blank=False,
            suppress_tokens=[END],
        )
        assert len(result.sequences_ids[0]) == count, len(result.sequences_ids[0])

    return run, sum(file.stat().st_size for file in folder.iterdir())


def torch_float(size: str, audio: np.ndarray, threads: int) -> tuple[Run, int]:
    """PyTorch in float32, and the bytes of its weights."""
    import torch

    torch.set_num_threads(threads)
    model, features = random_whisper(size), torch.from_numpy(audio)

    def run(count: int) -> None:
        with torch.no_grad():
            _checked(model.generate(input_features=features, max_new_tokens=count, do_sample=False), count)

    return run, sum(parameter.nbytes for parameter in model.parameters())


def _checked(tokens: Any, count: int) -> None:
    assert tokens.shape[1] == count, tokens.shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--recipes", default="2-2-8,1-1-8,2-2-2,1-1-1", help="comma-separated")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every engine")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    audio = np.random.default_rng(0).standard_normal((1, MELS, FRAMES), dtype=np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        engines = {
            "torch fp32": torch_float(options.size, audio, options.threads),
            "CTranslate2 int8": ctranslate(options.size, audio, folder / "ctranslate2", options.threads),
        }
        for recipe in options.recipes.split(","):
            engines[recipe] = compiled(options.size, recipe, audio, folder / recipe, options.threads)
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds + 1):  # the first round warms up
            for name, (run, _) in engines.items():
                for count in (1, options.tokens):
                    start = time.perf_counter()
                    run(count)
                    times.setdefault((name, count), []).append(time.perf_counter() - start)
    rows = []
    for name, (_, size) in engines.items():
        first, whole = (median(times[name, count][1:]) * 1e3 for count in (1, options.tokens))
        token = (whole - first) / (options.tokens - 1)
        rows.append({"engine": name, "first_ms": first, "token_ms": token, "bytes": size})
        print(f"{name:18} first {first:8.1f} ms   token {token:7.3f} ms   {size / 2**20:7.1f} MiB")
    if options.json:
        measured = {"conditions": conditions(), "options": vars(options), "rows": rows}
        Path(options.json).write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
