"""Damaged, foreign and swapped folders are refused before anything of them is used."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import golden_folders as golden
import pytest

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.errors import FormatError
from tbt_compile.runtime import builds, tvm_runtime
from tbt_compile.storage import checksums, model_folder

ROOT = Path(__file__).resolve().parents[2]
COMPILED = golden.FOLDERS / golden.name_of(model_folder.GENERATOR, "x86-64")
FROZEN = golden.FOLDERS / golden.name_of(model_folder.FROZEN)
LIBRARY = "model.so"


@pytest.fixture
def damage() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples" / "benchmarks")
        import damage

        yield damage
    sys.modules.pop("damage", None)


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    return Path(shutil.copytree(COMPILED, tmp_path / "compiled"))


@pytest.mark.parametrize("source", [COMPILED, FROZEN], ids=lambda path: path.name)
def test_flipped_bytes_and_cut_files_are_refused(source: Path, damage: ModuleType, tmp_path: Path) -> None:
    """A sample; examples/benchmarks/damage.py does all of them."""
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    tried, faults = damage.accepted(folder, every=1499)
    assert faults == []
    assert tried > 300
    tbt_compile.load(folder)


def test_spellings_of_the_same_manifest_are_refused(compiled: Path) -> None:
    """JSON has several texts for one value; only the one that was written counts."""
    manifest = compiled / model_folder.MANIFEST
    text = manifest.read_text()
    for other in (
        text + "\n",
        text.replace(":", ": ", 1),
        text.replace("e-", "E-", 1),
        '{"kind":1,' + text[1:],
    ):
        if other != text:
            manifest.write_text(other)
            with pytest.raises(FormatError, match="was altered|not signed|holds a 1 model"):
                tbt_compile.load(compiled)
    manifest.write_text(text)
    tbt_compile.load(compiled)


def never(*_: Any) -> Any:
    raise AssertionError("the library was loaded")


def test_a_swapped_library_of_the_right_size_is_refused_before_it_is_loaded(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((compiled / LIBRARY).read_bytes())
    content[-1] ^= 1
    (compiled / LIBRARY).write_bytes(content)
    monkeypatch.setattr(tvm_runtime.tvm_ffi, "load_module", never)
    with pytest.raises(FormatError, match=f"{LIBRARY} was altered"):
        tbt_compile.load(compiled)


def test_a_library_with_the_same_crc_is_refused(compiled: Path) -> None:
    """Four bytes make any CRC-32; the last word of the file is chosen so that it stays."""
    import zlib

    content = (compiled / LIBRARY).read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    forged = bytes(changed[:-4]) + _word_for(zlib.crc32(changed[:-4]), zlib.crc32(content))
    assert zlib.crc32(forged) == zlib.crc32(content) and forged != content
    (compiled / LIBRARY).write_bytes(forged)
    with pytest.raises(FormatError, match=f"{LIBRARY} was altered"):
        tbt_compile.load(compiled)


def _word_for(state: int, wanted: int) -> bytes:
    """Four bytes that take a CRC-32 from one value to another: the inverse of its table, byte by byte."""
    import zlib

    table = [zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0") for byte in range(256)]
    table = [value ^ table[0] for value in table]
    highest = {value >> 24: byte for byte, value in enumerate(table)}
    crc, places = wanted ^ 0xFFFFFFFF, []
    for _ in range(4):
        byte = highest[crc >> 24]
        places.append(byte)
        crc = ((crc ^ table[byte]) << 8 | byte) & 0xFFFFFFFF
    register = state ^ 0xFFFFFFFF
    word = bytearray()
    for byte in reversed(places):
        word.append((register ^ byte) & 0xFF)
        register = register >> 8 ^ table[byte]
    return bytes(word)


def test_a_library_that_was_swapped_after_it_was_read_is_refused(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CompiledModel.read(compiled)
    content = (compiled / LIBRARY).read_bytes()
    (compiled / "other").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.replace(compiled / "other", compiled / LIBRARY)
    with monkeypatch.context() as patched:
        patched.setattr(tvm_runtime.tvm_ffi, "load_module", never)
        with pytest.raises(FormatError, match=f"{LIBRARY} was altered"):
            model.generate(golden.IDS)
    (compiled / LIBRARY).write_bytes(content)
    assert (
        model.generate(golden.IDS, golden.MASK, **golden.SEARCHES["greedy"]).tolist()
        == (golden.answers_of(COMPILED)["greedy"])
    )


def test_the_check_can_be_left_out(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    for module in (checksums, builds):
        monkeypatch.setattr(module, "sha256", lambda file: read.append(file) or "")
    model = tbt_compile.load(compiled, check=False)
    assert read == []
    tokens = model.generate(golden.IDS, golden.MASK, **golden.SEARCHES["greedy"])
    assert tokens.tolist() == golden.answers_of(COMPILED)["greedy"]
    other = Path(shutil.copytree(compiled, tmp_path / "other"))
    (other / LIBRARY).write_bytes(b"")
    with pytest.raises(FormatError, match="it is truncated"):
        tbt_compile.load(other, check=False)


def test_a_changed_card_does_not_matter_but_is_not_lost(compiled: Path, tmp_path: Path) -> None:
    card = compiled / model_folder.CARD
    card.write_text("my own words")
    model = tbt_compile.load(compiled)
    with pytest.raises(FormatError, match=f"holds {model_folder.CARD}, which is not part of the model saved"):
        model.save(compiled)
    assert card.read_text() == "my own words"
    card.unlink()
    model.save(compiled)
    tbt_compile.load(COMPILED).save(tmp_path / "again")
    assert card.read_text() == (tmp_path / "again" / model_folder.CARD).read_text()


def rewritten(folder: Path, **changes: Any) -> Path:
    """The manifest with other fields and a right checksum, as one who means harm would write it."""
    import json

    fields = {**json.loads((folder / model_folder.MANIFEST).read_text()), **changes}
    fields[model_folder.CHECKSUM] = model_folder._manifest_checksum(fields)
    (folder / model_folder.MANIFEST).write_bytes(model_folder._serialized(fields))
    return folder


def test_a_manifest_cannot_name_files_elsewhere(compiled: Path, tmp_path: Path) -> None:
    """Neither to load a library that was not checked, nor to have files removed that are not ours."""
    fields = model_folder.read_manifest(compiled)
    (build,) = fields["builds"]
    shutil.copy(compiled / LIBRARY, tmp_path / "elsewhere.so")
    away = {**build, "library": "../elsewhere.so"}
    with pytest.raises(FormatError, match="is '../elsewhere.so': expected the name of a file in the folder"):
        tbt_compile.load(rewritten(compiled, builds=[away]))
    with pytest.raises(FormatError, match="expected one of the files"):
        tbt_compile.load(rewritten(compiled, builds=[{**build, "library": "other.so"}]))
    entry = checksums.fingerprint(tmp_path / "elsewhere.so")
    files = {**fields["files"], "../elsewhere.so": entry}
    with pytest.raises(FormatError, match="expected the name of a file in the folder"):
        tbt_compile.load(rewritten(compiled, builds=[away], files=files))
    with pytest.raises(FormatError, match="exists and is not a model folder"):
        tbt_compile.load(FROZEN).save(compiled)
    assert (tmp_path / "elsewhere.so").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builds": []}, "builds is empty"),
        ({"layers": "2"}, "layers is '2': expected an integer"),
        ({"generation": None}, "generation is None: expected an object"),
        ({"limits": {}}, "limits.source is missing"),
        ({"files": []}, r"files is \[\]: expected an object"),
        ({"files": {}}, "files has no tensors.bin"),
        ({"tensors": {"a": {"dtype": "float32", "shape": [-1]}}}, r"tensors\['a'\].shape\[0\] is -1"),
        ({"tensors": {}}, "reads .*: expected a tensor of the folder"),
        ({"version": True}, "version is True: expected an integer|format version True"),
        ({"kind": ["compiled"]}, "holds a .* model"),
    ],
)
def test_fields_of_the_wrong_type_are_named(compiled: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        CompiledModel.load(rewritten(compiled, **changes))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"dtype": "nothing"},
        {"offset": 65},
        {"offset": 2**70},
        {"bytes": 2**40},
        {"shape": [7, 7, 7]},
        {"dtype": "float32", "shape": [2**40], "coding": "shuffle-deflate"},
    ],
    ids=str,
)
def test_entries_of_tensors_that_do_not_fit_the_file(compiled: Path, change: dict[str, Any]) -> None:
    tensors = model_folder.read_manifest(compiled)["tensors"]
    first = next(name for name, entry in tensors.items() if "coding" not in entry)
    with pytest.raises(FormatError, match="tensors.bin is damaged"):
        tbt_compile.load(rewritten(compiled, tensors={**tensors, first: {**tensors[first], **change}}))


def test_a_stream_that_inflates_to_more_is_refused(compiled: Path) -> None:
    """Memory is bounded by what the manifest says, not by what a stream holds."""
    tensors = model_folder.read_manifest(compiled)["tensors"]
    name = next(name for name, entry in tensors.items() if "coding" in entry and entry["shape"] != [])
    with pytest.raises(FormatError, match="does not inflate to its 4 bytes"):
        tbt_compile.load(rewritten(compiled, tensors={**tensors, name: {**tensors[name], "shape": [1]}}))


def test_a_manifest_that_is_nested_too_deeply(compiled: Path) -> None:
    (compiled / model_folder.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(FormatError, match="is damaged"):
        tbt_compile.load(compiled)


def test_nothing_is_unpickled() -> None:
    """No source of the package reads pickles; transformers reads older checkpoints by weights alone."""
    offenders = []
    for folder in ("tbt_compile", "passes", "codegen"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                allowed = call and any(word.arg == "allow_pickle" for word in node.keywords)
                if {"pickle", "dill", "joblib", "shelve", "marshal"} & {
                    name.partition(".")[0] for name in names
                }:
                    offenders.append(f"{path}: {names}")
                if call == "torch.load" or allowed:
                    offenders.append(f"{path}: {call}")
    assert offenders == []
