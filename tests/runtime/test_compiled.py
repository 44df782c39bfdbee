"""Compiled models: generation settings, save and load, a machine without torch, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_tools import assert_rows_do_not_depend_on_the_batch, eager_tokens, sources, trained
from models import VOCABULARY, bart
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile import CompiledModel, storage
from tbt_compile.codegen import host
from tbt_compile.errors import FormatError, GenerationError, TargetError

POSITIONS = 150  # more than two words of packed values
PAD = 1


@dataclass(frozen=True)
class Case:
    """A prepared model, the compiled one, and its saved folder."""

    eager: PreTrainedModel
    compiled: CompiledModel
    folder: Path

    def loaded(self, **options: Any) -> CompiledModel:
        model = tbt_compile.load(self.folder, **options)
        assert isinstance(model, CompiledModel)
        return model


class Words:
    """As much of a tokenizer as saving needs."""

    def save_pretrained(self, folder: str | Path) -> None:
        (Path(folder) / "tokenizer.json").write_text('{"words": 3}')


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = bart(max_position_embeddings=POSITIONS)
    model.generation_config.max_new_tokens = 9
    model.generation_config.num_beams = 2
    eager = trained(model, "2-2-2")
    compiled = tbt_compile.lower(eager)
    folder = compiled.save(tmp_path_factory.mktemp("compiled") / "model", tokenizer=Words())
    return Case(eager, compiled, folder)


IDS, MASK = sources(PAD)


@pytest.mark.parametrize(
    "settings",
    [
        {},  # the model's own generation config
        {"num_beams": 1, "max_new_tokens": 6},
        {"num_beams": 1, "min_new_tokens": 10, "max_new_tokens": 12, "no_repeat_ngram_size": 2},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 3, "forced_bos_token_id": 5, "forced_eos_token_id": 2, "max_new_tokens": 8},
        {"num_beams": 2, "repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2},
        {"num_beams": 2, "max_new_tokens": None, "max_length": 7},
    ],
)
def test_settings_mean_what_they_mean_in_transformers(case: Case, settings: dict[str, Any]) -> None:
    expected = eager_tokens(case.eager, IDS, MASK, **settings)
    assert np.array_equal(case.compiled.generate(IDS, MASK, **settings), expected)


@pytest.mark.parametrize("beams", [1, 2])
def test_long_sources_and_long_outputs(case: Case, beams: int) -> None:
    ids, mask = sources(PAD, rows=2, longest=POSITIONS)
    settings = {"num_beams": beams, "min_new_tokens": 135, "max_new_tokens": 135}
    expected = eager_tokens(case.eager, ids, mask, **settings)
    assert np.array_equal(case.compiled.generate(ids, mask, **settings), expected)


@pytest.mark.parametrize(("rows", "longest"), [(1, 1), (7, 5), (1, 64), (2, 65)])
def test_any_batch_and_length(case: Case, rows: int, longest: int) -> None:
    ids, mask = sources(PAD, rows, longest)
    expected = eager_tokens(case.eager, ids, mask)
    assert np.array_equal(case.compiled.generate(ids, mask), expected)
    if mask.all():
        assert np.array_equal(case.compiled.generate(ids), expected)


def test_padding_over_the_end_of_a_word_changes_nothing(case: Case) -> None:
    assert_rows_do_not_depend_on_the_batch(case.compiled, PAD, padding=(51, 52, 100), num_beams=2)


def test_a_prompt_of_several_tokens(case: Case) -> None:
    prompt = np.array([[2, 7, 8]] * len(IDS))
    expected = eager_tokens(case.eager, IDS, MASK, decoder_input_ids=torch.tensor(prompt))
    assert np.array_equal(case.compiled.generate(IDS, MASK, decoder_input_ids=prompt), expected)


def test_tokens_are_reported_as_they_come(case: Case) -> None:
    seen: list[np.ndarray[Any, Any]] = []
    output = case.compiled.generate(IDS, MASK, num_beams=1, on_tokens=lambda new: seen.append(new.copy()))
    assert np.array_equal(np.stack(seen, axis=1), output[:, 1:])


def test_lists_and_tensors_are_taken_too(case: Case) -> None:
    expected = case.compiled.generate(IDS, MASK)
    assert np.array_equal(case.compiled.generate(IDS.tolist(), MASK.tolist()), expected)
    assert np.array_equal(case.compiled.generate(torch.tensor(IDS), torch.tensor(MASK)), expected)
    assert np.array_equal(case.compiled.generate(IDS.astype(np.int32), MASK.astype(bool)), expected)


def test_threads_change_nothing(case: Case) -> None:
    expected = case.compiled.generate(IDS, MASK)
    two = case.loaded(num_threads=2)
    assert two.num_threads == 2
    assert np.array_equal(two.generate(IDS, MASK), expected)
    assert np.array_equal(case.loaded(num_threads=1).generate(IDS, MASK), expected)


def test_a_saved_model_comes_back_exactly(case: Case, tmp_path: Path) -> None:
    loaded = case.loaded()
    assert str(loaded) == str(case.compiled)
    assert loaded.target == case.compiled.target
    assert loaded.recipe == case.compiled.recipe
    assert loaded.kernels == case.compiled.kernels
    decoder = np.array([[2, 9, 4]] * len(IDS))
    sessions = [model.session(IDS, MASK) for model in (case.compiled, loaded)]
    for column in range(3):
        step = [session.step(decoder[:, column : column + 1]) for session in sessions]
        assert np.array_equal(*step)
    # Saving what was loaded, elsewhere and over itself, writes the same again.
    again = loaded.save(tmp_path / "again")
    names = (storage.TENSORS, "model.so")
    assert all((again / name).read_bytes() == (case.folder / name).read_bytes() for name in names)
    moved = tbt_compile.load(again)
    moved.save(again)
    assert np.array_equal(tbt_compile.load(again).generate(IDS), loaded.generate(IDS))


def test_what_is_in_the_folder(case: Case) -> None:
    names = sorted(file.name for file in case.folder.iterdir())
    assert names == [storage.MANIFEST, "model.so", storage.TENSORS, "tokenizer.json"]
    manifest = storage.read_manifest(case.folder, "compiled")
    assert manifest["class"] == "BartForConditionalGeneration"
    assert manifest["recipe"] == case.compiled.recipe.to_dict()
    assert set(manifest["versions"]) == {"torch", "transformers", "apache-tvm"}
    assert set(manifest["functions"]) == {"encoder", "first_step", "step"}
    assert set(manifest["files"]) == {storage.TENSORS, "model.so", "tokenizer.json"}
    assert (manifest["vocabulary"], manifest["max_positions"]) == (VOCABULARY, POSITIONS)
    assert (manifest["generation"]["num_beams"], manifest["generation"]["max_new_tokens"]) == (2, 9)
    stored = manifest["tensors"]
    assert set(stored) == set(manifest["parameters"])
    assert set(stored) == {name for names in manifest["functions"].values() for name in names}
    embedding = [name for name, entry in stored.items() if entry["shape"] == [VOCABULARY, 2, 1]]
    assert len(embedding) == 1  # shared by encoder, decoder and output projection
    floats = sum(np.prod(entry["shape"]) for entry in stored.values() if entry["dtype"] == "float32")
    positions = 2 * (POSITIONS + 2) * 32
    assert floats < positions + 4000  # positions, scales, biases and norms: no weight


WITHOUT_TORCH = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "tokenizers"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
import tbt_compile
model = tbt_compile.load(sys.argv[1])
ids, mask = json.load(sys.stdin)
print(json.dumps(model.generate(ids, mask).tolist()))
assert not {"torch", "transformers", "tokenizers"} & set(sys.modules)
"""


def test_running_needs_neither_torch_nor_transformers(case: Case) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(case.folder)],
        input=json.dumps([IDS.tolist(), MASK.tolist()]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == case.compiled.generate(IDS, MASK).tolist()


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (
            [[3, VOCABULARY]],
            None,
            f"input_ids holds 3 to {VOCABULARY}: expected ids from 0 to {VOCABULARY - 1}",
        ),
        ([[3, -1]], None, "input_ids holds -1 to 3"),
        ([3, 4], None, r"input_ids has shape \[2\] and type int64: expected integers \[batch, length\]"),
        ([[]], None, r"input_ids has shape \[1, 0\]"),
        (np.zeros((0, 4), np.int64), None, r"input_ids has shape \[0, 4\]"),
        ([[3.0, 4.0]], None, "and type float64"),
        ([["a", "b"]], None, "input_ids has shape .* and type <U1"),
        ([[3, 4], [5]], None, "is no array .*: pad shorter rows on the right"),
        ([[3, 4]], [[1]], r"attention_mask has shape \[1, 1\]: expected that of input_ids, \[1, 2\]"),
        ([[3, 4], [5, 6]], [[1, 1], [0, 0]], "attention_mask leaves no token of a row"),
        (
            np.full((1, POSITIONS + 1), 3),
            None,
            f"has {POSITIONS + 1} tokens, and the model has {POSITIONS} pos",
        ),
    ],
)
def test_sources_that_do_not_fit(case: Case, ids: Any, mask: Any, message: str) -> None:
    for run in (case.compiled.generate, case.compiled.session):
        with pytest.raises(GenerationError, match=message):
            run(ids, mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beam": 4}, "unknown generation setting 'num_beam'.*Did you mean num_beams"),
        ({"do_sample": True}, "only greedy search and plain beam search"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected an integer of at least 1"),
        ({"num_beams": 1, "num_return_sequences": 2}, "at most num_beams sequences"),
        (
            {"max_new_tokens": POSITIONS + 1, "min_new_tokens": POSITIONS + 1},
            "more than the model's 150 positions",
        ),
        ({"decoder_input_ids": [[2]]}, r"decoder_input_ids has shape \[1, 1\]: expected \[5, length\]"),
        ({"decoder_input_ids": [[2, VOCABULARY]] * 5}, f"decoder token {VOCABULARY}: expected ids from 0 to"),
        ({"decoder_start_token_id": 10**9}, "decoder token 1000000000: expected ids from 0 to 95"),
        ({"num_beams": 2, "on_tokens": print}, "on_tokens needs num_beams=1"),
    ],
)
def test_settings_that_do_not_fit(case: Case, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        case.compiled.generate(IDS, MASK, **settings)
    assert case.compiled.generate(IDS, MASK).shape[0] == len(IDS)  # an error leaves nothing behind


def copy_of(case: Case, path: Path, **changes: Any) -> Path:
    """The saved folder with another manifest, as another machine might have written it."""
    manifest = storage.read_manifest(case.folder)
    arrays = storage.read_tensors(case.folder, manifest)
    files = {name: case.folder / name for name in manifest["files"] if name != storage.TENSORS}
    return storage.write_folder(path, "compiled", {**manifest, **changes}, arrays, files)


def test_a_library_for_another_architecture(case: Case, tmp_path: Path) -> None:
    target = {"kind": "llvm", "mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu"}
    other = "cortex-a72" if host.host_arch() == "x86_64" else "haswell"
    folder = copy_of(case, tmp_path / "other", target=target if other == "cortex-a72" else {"mcpu": other})
    with pytest.raises(TargetError, match=f"compiled for {other} .* and this machine is {host.host_arch()}"):
        tbt_compile.load(folder)


def test_a_library_for_a_cpu_with_more_features(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    feature = "avx2" if host.host_arch() == "x86_64" else "neon"
    less = host.host_features() - {feature}
    monkeypatch.setattr(host, "host_features", lambda: less)
    message = (
        f"compiled for {case.compiled.target.mcpu}, and this machine .* lacks .*{feature}.*; compile it again"
    )
    with pytest.raises(TargetError, match=message):
        tbt_compile.load(case.folder)


@pytest.mark.parametrize("name", ["model.so", storage.TENSORS])
def test_damaged_folders(case: Case, tmp_path: Path, name: str) -> None:
    folder = copy_of(case, tmp_path / "copy")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(FormatError, match=f"{name} has .* bytes instead of .*: it is truncated"):
        tbt_compile.load(folder)
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FormatError, match=f"{name} was altered"):
        tbt_compile.load(folder)
    (folder / name).unlink()
    with pytest.raises(FormatError, match=f"{name} is missing"):
        tbt_compile.load(folder)


def test_kinds_are_not_mixed_up(case: Case, tmp_path: Path) -> None:
    frozen = tbt_compile.freeze(case.eager).save(tmp_path / "frozen")
    with pytest.raises(FormatError, match="frozen holds a frozen model: expected a compiled one"):
        CompiledModel.load(frozen)
    with pytest.raises(FormatError, match="is not a model folder"):
        CompiledModel.load(tmp_path / "nowhere")
    (tmp_path / "thesis.txt").write_text("thesis")
    with pytest.raises(FormatError, match="is not a model folder: remove it or choose another place"):
        case.compiled.save(tmp_path)
