"""`tbt train`, `tbt evaluate` and `tbt lower` for models that are no encoder-decoders of text."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_speech import MELS, WINDOW, whisper
from training.kinds import SPOKEN, classifier, labelled, small_llama
from training.small import tokenizer
from transformers import WhisperFeatureExtractor

import tbt_compile
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.evaluation.classification import accuracy, class_logits
from tbt_compile.evaluation.perplexity import perplexity

FEW = ("--steps", 2, "--batch-size", 4, "--test-sentences", 3, "--json", "-")


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def test_a_decoder_only_model_from_scratch(tbt, data: Path, tmp_path: Path) -> None:
    arguments = [
        "train",
        "--data",
        data,
        "-o",
        tmp_path / "out",
        "--model-type",
        "llama",
        "--vocab-size",
        300,
    ]
    arguments += ["--teacher-steps", 2, "--source-length", 24, "--target-length", 24]
    nothing = tbt(*arguments, *FEW)
    assert nothing.code == 2
    assert (
        "a new model has no chat template: give the template" in nothing.err and nothing.err.count("\n") == 1
    )
    template = r"{source}\nbackwards:"
    assert "--layers first: expected indices" in tbt(*arguments, "--layers", "first").err
    losses = ("--reverse", 0.5, "--relations", 1, "--temperature", 2, "--layers", "-1", "--hidden", 0)
    found = tbt(*arguments, "--template", template, *losses, *FEW)
    assert found.code == 0, found.err
    assert {"rouge1", "bleu"} < found.json()["student"].keys()
    for other, name in ((("--size", "wide"), "model"), (("--vocab-size", 280), "vocab_size")):
        refused = tbt(*arguments, "--template", template, *other, *losses, *FEW)
        assert refused.code == 2 and f"holds a run with {name}=" in refused.err
    student = tmp_path / "out" / "student-2-2-2"
    record = json.loads((student / "training.json").read_text())["asked"]
    assert record["weights"] == {
        "logits": 1.0,
        "labels": 0.0,
        "hidden": 0.0,
        "attention": 0.0,
        "temperature": 2.0,
        "reverse": 0.5,
        "relations": 1.0,
        "layers": [-1],
    }
    assert record["template"] == "{source}\nbackwards:"
    assert record["model"]["class"] == "LlamaForCausalLM"
    lowered = tbt("lower", student, "-o", tmp_path / "compiled")
    assert lowered.code == 0, lowered.err
    options = ("--data", data, "--limit", 3, "--max-new-tokens", 4, "--template", template, "--json", "-")
    scores = [tbt("evaluate", folder, *options).json() for folder in (student, tmp_path / "compiled")]
    assert scores[0]["rouge1"] == scores[1]["rouge1"]


def test_plain_texts(tbt, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [{"text": text.text} for text in labelled()[:12]])
    arguments = [
        "train",
        "--data",
        folder,
        "-o",
        tmp_path / "out",
        "--text-field",
        "text",
        "--vocab-size",
        300,
    ]
    refused = tbt(*arguments, *FEW)
    assert refused.code == 2
    assert "plain texts (text field 'text') train decoder-only models and classifiers" in refused.err
    found = tbt(*arguments, "--model-type", "llama", "--teacher-steps", 2, *FEW)
    assert found.code == 0, found.err
    assert found.json()["student"]["perplexity"] > 1
    assert "perplexity" in tbt(*arguments, "--model-type", "llama", "--teacher-steps", 2, *FEW[:-2]).out


def test_a_classifier(tbt, tmp_path: Path) -> None:
    teacher = tmp_path / "bert"
    classifier().save_pretrained(teacher)
    tokenizer().save_pretrained(teacher)
    names = {f"LABEL_{number}": number for number in range(3)}
    records = [{"source": item.text, "kind": f"LABEL_{item.label}"} for item in labelled()[:12]]
    folder = write(tmp_path / "data", records)
    arguments = ["train", "--data", folder, "--teacher", teacher, "-o", tmp_path / "out", *FEW]
    found = tbt(*arguments, "--target-field", "kind")
    assert found.code == 0, found.err
    assert found.json()["teacher"]["accuracy"] in {0.0, 100 / 3, 200 / 3, 100.0}
    write(folder, [{"source": "one", "kind": "LABEL_7"}])
    wrong = tbt(*arguments, "--target-field", "kind")
    assert wrong.code == 2
    assert f"'LABEL_7': expected one of {', '.join(names)}, or an index. Did you mean LABEL_" in wrong.err
    lowered = tbt("lower", tmp_path / "out" / "student-2-2-2", "-o", tmp_path / "compiled")
    assert lowered.code == 0, lowered.err
    compiled = tbt_compile.load(tmp_path / "compiled")
    for length in (3, 11):
        ids = np.full((2, length), 5)
        assert compiled(input_ids=ids, attention_mask=np.ones_like(ids))["logits"].shape == (2, 3)


@pytest.mark.parametrize("suffix", ["npy", "wav"])
def test_speech(tbt, tmp_path: Path, suffix: str) -> None:
    teacher = tmp_path / "whisper"
    whisper().save_pretrained(teacher)
    train_word_tokenizer(SPOKEN).save_pretrained(teacher)
    generator = np.random.default_rng(0)
    records = [{"audio": f"{number}.{suffix}", "text": text} for number, text in enumerate(SPOKEN)]
    folder = write(tmp_path / "data", records)
    for record in records:
        if suffix == "npy":
            np.save(folder / record["audio"], generator.standard_normal((MELS, WINDOW), dtype=np.float32))
            continue
        with wave.open(str(folder / record["audio"]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(generator.integers(-9000, 9000, 4000, dtype=np.int16).tobytes())
    fields = ("--source-field", "audio", "--target-field", "text")
    arguments = ["train", "--data", folder, "--teacher", teacher, "-o", tmp_path / "out", *fields, *FEW]
    if suffix == "npy":
        long = tbt(*arguments)
        assert long.code == 2
        assert "need 65 positions, and the teacher has 48: give smaller lengths" in long.err
    arguments += ["--target-length", 12]
    if suffix == "wav":
        missing = tbt(*arguments)
        assert missing.code == 2
        assert "has no preprocessor_config.json to make features of it" in missing.err
        hop = 16000 // WINDOW
        WhisperFeatureExtractor(feature_size=MELS, chunk_length=1, hop_length=hop).save_pretrained(teacher)
    found = tbt(*arguments)
    assert found.code == 0, found.err
    assert found.json()["student"]["wer"] >= 0
    student = tmp_path / "out" / "student-2-2-2"
    assert (student / "preprocessor_config.json").is_file() == (suffix == "wav")


def test_a_teacher_on_disk(tbt, data: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", data, "--teacher", trained / "teacher", "-o", tmp_path, *FEW[:-2]]
    refused = tbt(*arguments, "--cache-logits", 8)
    assert refused.code == 2
    assert "a loss term compares more (hidden states" in refused.err
    found = tbt(*arguments, "--cache-logits", 8, "--hidden", 0)
    assert found.code == 0, found.err
    assert "The teacher's 8 likeliest tokens take 0.0 MiB and leave out" in found.out
    assert (tmp_path / "teacher-logits" / "cache.json").is_file()


def test_an_untrained_speech_model_is_lowered(tbt, tmp_path: Path) -> None:
    whisper().save_pretrained(tmp_path / "ears")
    done = tbt("lower", tmp_path / "ears", "--recipe", "2-2-2", "--output", tmp_path / "compiled")
    assert done.code == 0, done.err
    assert tbt_compile.load(tmp_path / "compiled").recipe.notation == "2-2-2"


def test_fields_of_the_recipe_and_schedules(tbt, data: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", data, "--teacher", trained / "teacher", "-o", tmp_path, *FEW]
    for option, message in (
        ("ste", "--recipe-option ste: expected NAME=VALUE"),
        ("stee=trust", "unknown recipe option 'stee'"),
        ("dead_zone=-1", "recipe field dead_zone=-1: expected a number, 0 or more"),
    ):
        refused = tbt(*arguments, "--recipe-option", option)
        assert refused.code == 2
        assert message in refused.err
    refused = tbt(*arguments, "--average", 1)
    assert refused.code == 2
    assert "average=1.0: expected 0 or more, below 1" in refused.err
    options = ("--recipe-option", "ste=trust", "--recipe-option", "exclude=[]")
    schedules = ("--average", 0.5, "--weight-decay", 0.1, "--decay-share", 0.5, "--quantization-warmup", 0.5)
    found = tbt(*arguments, *options, *schedules)
    assert found.code == 0, found.err
    asked = json.loads((tmp_path / "student-2-2-2" / "training.json").read_text())["asked"]
    assert asked["recipe"]["ste"] == "trust"
    expected = {"average": 0.5, "weight_decay": 0.1, "decay_share": 0.5, "quantization_warmup": 0.5}
    assert asked["settings"].items() >= expected.items()
    assert "soft_weights" not in asked["settings"]


def test_quantized_folders_are_no_teachers(tbt, data: Path, trained: Path, tmp_path: Path) -> None:
    student, packed = trained / "student-2-2-2", tmp_path / "packed"
    frozen = tbt_compile.freeze(tbt_compile.load_prepared(student))
    frozen.save(packed)
    for file in student.glob("token*"):
        shutil.copy(file, packed)
    arguments = ["train", "--data", data, "--output", tmp_path / "out", "--recipe", "1-1-1", "--steps", 2]
    for options, message in (
        (["--teacher", student], "holds a quantized student: expected a full-precision model"),
        (["--teacher", packed], "holds a quantized student: expected a full-precision model"),
        (
            ["--teacher", trained / "teacher", "--start", packed],
            "holds a frozen model, whose weights are packed",
        ),
    ):
        refused = tbt(*arguments, *options)
        assert refused.code == 2
        assert message in refused.err


def test_a_training_that_diverges_is_an_error(tbt, data: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", data, "--teacher", trained / "teacher", "--recipe", "2-2-2", "--steps", 3]
    done = tbt(*arguments, "--output", tmp_path / "out", "--learning-rate", 1e30)
    assert done.code == 2
    assert "the training diverged" in done.err
    assert not (tmp_path / "out" / "student-2-2-2" / "model.safetensors").exists()


def test_every_kind_is_evaluated(tbt, tmp_path: Path) -> None:
    folder, data = tmp_path / "model", tmp_path / "data"
    classifier().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    write(data, [{"source": item.text, "kind": item.label} for item in labelled()[:12]])
    arguments = ["evaluate", folder, "--data", data / "train.jsonl", "--target-field", "kind", "--json", "-"]
    found = tbt(*arguments, "--limit", 5)
    assert found.code == 0, found.err
    expected = accuracy(
        class_logits(classifier(), tokenizer(), [x.text for x in labelled()[:5]], 64), labelled()[:5]
    )
    assert found.json()["accuracy"] == expected.accuracy and found.json()["sentences"] == 5
    assert "accuracy" in tbt(*arguments[:-2], "--limit", 5).out
    assert "--texts writes the texts of pairs" in tbt(*arguments, "--texts", tmp_path / "t.json").err
    small_llama().save_pretrained(folder)
    write(data, [{"text": item.text} for item in labelled()[:12]])
    texts = [*arguments[:4], "--text-field", "text", "--max-source-length", 24, "--json", "-"]
    found = tbt(*texts)
    assert found.code == 0, found.err
    whole = perplexity(small_llama(), tokenizer(), [item.text for item in labelled()[:12]], 24)
    assert found.json()["perplexity"] == pytest.approx(whole.perplexity, rel=1e-6)
    assert "unknown split 'tst'" in tbt(*texts[:3], data, *texts[4:], "--split", "tst").err
