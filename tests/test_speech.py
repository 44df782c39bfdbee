"""Whisper: a compiled model writes what transformers' `generate` writes with the frozen one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import tbt_compile
from tbt_compile import CompiledModel, FrozenModel
from tbt_compile.errors import GenerationError, LoweringError
from tbt_compile.runtime.speech import _segment

START, EOS, PAD, UNTIMED, MELS, WINDOW = 60, 2, 2, 65, 8, 40
SPEECH = {
    "lang_to_id": {"<|en|>": 61, "<|de|>": 62},
    "task_to_id": {"transcribe": 63, "translate": 64},
    "no_timestamps_token_id": UNTIMED,
    "is_multilingual": True,
    "max_initial_timestamp_index": 10,
    "suppress_tokens": [5, 7],
    "begin_suppress_tokens": [6, EOS],
    "return_timestamps": False,
}


def whisper(**fields: Any) -> WhisperForConditionalGeneration:
    """A small model of 96 tokens, of which 66 to 95 are timestamps; windows are 40 frames of 8 mels."""
    config = WhisperConfig(
        vocab_size=96,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=MELS,
        max_source_positions=WINDOW // 2,
        max_target_positions=48,
        decoder_start_token_id=START,
        pad_token_id=PAD,
        bos_token_id=EOS,
        eos_token_id=EOS,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.5,
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    for name, value in {**SPEECH, **fields}.items():
        setattr(model.generation_config, name, value)
    return model.eval()


def frozen_whisper(**fields: Any) -> FrozenModel:
    prepared = tbt_compile.prepare(whisper(**fields), "2-2-8")
    return tbt_compile.freeze(prepared)


@pytest.fixture(scope="module")
def models() -> tuple[FrozenModel, CompiledModel]:
    frozen = frozen_whisper()
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModel)
    return frozen, compiled


def audio(rows: int, frames: int = WINDOW, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, MELS, frames, generator=torch.Generator().manual_seed(seed))


def check(models: tuple[FrozenModel, CompiledModel], features: torch.Tensor, **settings: Any) -> np.ndarray:
    """Compare the tokens of both; returns them."""
    frozen, compiled = models
    expected = frozen.generate(input_features=features, do_sample=False, **settings).numpy()
    mask = {"attention_mask": settings.pop("attention_mask").numpy()} if "attention_mask" in settings else {}
    found = compiled.generate(input_features=features.numpy(), **settings, **mask)
    np.testing.assert_array_equal(found, expected)
    return found


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"language": "en"},
        {"language": "German", "task": "translate"},
        {"language": ["en", "de", "<|de|>", "english"], "task": "transcribe"},
        {"task": "transcribe"},
        {},
    ],
)
def test_tokens_are_those_of_transformers(
    models: tuple[FrozenModel, CompiledModel], options: dict[str, Any], beams: int
) -> None:
    check(models, audio(4), max_new_tokens=12, num_beams=beams, **options)


@pytest.mark.parametrize("beams", [1, 3])
def test_timestamps_move_the_window(models: tuple[FrozenModel, CompiledModel], beams: int) -> None:
    tokens = check(models, audio(3, seed=4), return_timestamps=True, language="en", num_beams=beams)
    assert (tokens > UNTIMED).any()


def test_long_audio_is_read_in_windows(models: tuple[FrozenModel, CompiledModel]) -> None:
    one = check(models, audio(1, 3 * WINDOW + 7), language="en", return_timestamps=True, max_new_tokens=10)
    mask = torch.ones(2, 100, dtype=torch.int64)
    mask[1, 55:] = 0
    check(
        models, audio(2, 100), language="en", return_timestamps=True, max_new_tokens=10, attention_mask=mask
    )
    assert one.shape[1] > 10


def test_short_audio_is_padded(models: tuple[FrozenModel, CompiledModel]) -> None:
    _, compiled = models
    short = audio(2, 30)
    padded = torch.nn.functional.pad(short, (0, WINDOW - 30))
    settings = {"language": "en", "max_new_tokens": 8}
    np.testing.assert_array_equal(
        compiled.generate(input_features=short.numpy(), **settings),
        compiled.generate(input_features=padded.numpy(), **settings),
    )


def test_prompt_ids_come_first(models: tuple[FrozenModel, CompiledModel]) -> None:
    frozen, compiled = models
    prompt, features = torch.tensor([9, 10, 11]), audio(2)
    settings = {"language": "en", "max_new_tokens": 8}
    expected = frozen.generate(input_features=features, prompt_ids=prompt, do_sample=False, **settings)
    found = compiled.generate(input_features=features.numpy(), prompt_ids=prompt.numpy(), **settings)
    np.testing.assert_array_equal(found, expected.numpy())


def test_saved_models_and_half_precision(models: tuple[FrozenModel, CompiledModel], tmp_path: Path) -> None:
    _, compiled = models
    loaded = tbt_compile.load(compiled.save(tmp_path / "whisper"))
    half = audio(2).to(torch.bfloat16)
    np.testing.assert_array_equal(
        loaded.generate(input_features=half, language="de", max_new_tokens=6),
        compiled.generate(input_features=half.float().numpy(), language="de", max_new_tokens=6),
    )
    hidden = loaded.encode(input_features=audio(2))
    assert hidden.shape == (2, WINDOW // 2, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate(np.zeros((1, 4), np.int64)), "takes input_features alone"),
        (
            lambda m: m.generate(input_features=np.zeros((1, MELS + 1, WINDOW))),
            r"expected floats \[batch, 8, 40\]",
        ),
        (lambda m: m.generate(input_features=np.zeros((0, MELS, WINDOW))), "expected floats"),
        (lambda m: m.generate(input_features=audio(1), language="fr"), "language 'fr' is not one of"),
        (lambda m: m.generate(input_features=audio(1), language=["en", "de"]), "2 entries: expected one per"),
        (lambda m: m.generate(input_features=audio(1), task="sing"), "expected one of transcribe, translate"),
        (lambda m: m.generate(input_features=audio(1, 90), return_timestamps=False), "longer audio needs"),
        (lambda m: m.generate(input_features=audio(1), return_timestamps="word"), "words are not supported"),
        (
            lambda m: m.generate(input_features=audio(1), num_beams=2, num_return_sequences=2),
            "num_return_sequences=2: expected 1",
        ),
        (lambda m: m.generate(input_features=audio(1), max_new_tokens=46), "the model has 48 positions"),
        (lambda m: m.generate_many([[3, 4]]), "takes token ids, and this model input_features"),
        (lambda m: m.encode(input_features=audio(1), typo=1), "unknown argument 'typo'"),
    ],
)
def test_what_does_not_fit_is_refused(
    models: tuple[FrozenModel, CompiledModel], call: Callable[[CompiledModel], Any], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        call(models[1])


def test_settings_that_are_not_followed_are_refused_before_work() -> None:
    frozen = frozen_whisper(no_speech_threshold=0.6)
    with pytest.raises(
        LoweringError, match="has no_speech_threshold=0.6, which compiled models do not follow"
    ):
        tbt_compile.lower(frozen)


def test_segments_end_at_pairs_of_timestamps() -> None:
    assert _segment([70, 3, 4], 66, 40, 2) == ([70, 3, 4], 40)
    assert _segment([66, 3, 72, 72, 5, 6], 66, 40, 2) == ([66, 3, 72, 72], 12)
    assert _segment([66, 3, 72, 72, 5, 75], 66, 40, 2) == ([66, 3, 72, 72, 5, 75], 40)
    assert _segment([66, 66, 3, 4], 66, 40, 2) == ([66, 66], 40)  # nothing was heard: go on
