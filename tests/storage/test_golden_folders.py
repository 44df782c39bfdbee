"""Folders of every version that has to load for ever: they load, and give the recorded bits.

What is written now is compared with them: a format that changes without a new version fails here. After a
change that is meant, raise the version in `model_folder.KINDS` and run `python tests/golden_folders.py`,
which adds golden folders and leaves the older ones alone.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import golden_folders as golden
import numpy as np
import pytest
from models import MLP
from tensors import same

import tbt_compile
from tbt_compile import CompiledModel, CompiledModule
from tbt_compile.codegen.target import host
from tbt_compile.storage import manifest_fields, model_folder
from tbt_compile.storage.field_types import OPTIONAL, Only

ALL = sorted(path for path in golden.FOLDERS.iterdir() if path.is_dir())
HERE = "aarch64" if host.host_arch() == "aarch64" else "x86-64"
RUNNABLE = [path for path in ALL if not path.name.endswith(tuple(golden.CPUS.keys() - {HERE}))]
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
CURRENT = (model_folder.FROZEN, golden.PLAIN, model_folder.GENERATOR, model_folder.MODULE)


def loaded(folder: Path) -> Any:
    return tbt_compile.load(folder, MLP() if folder.name.startswith(golden.PLAIN) else None)


def arrays(folder: Path) -> dict[str, Any]:
    return model_folder.read_tensors(folder, model_folder.read_manifest(folder))


def assert_same_format(written: Path, recorded: Path) -> None:
    """Two folders of one model, not necessarily by the same compiler: the same fields, files and tensors."""
    ours, theirs = (
        json.loads((folder / model_folder.MANIFEST).read_text()) for folder in (written, recorded)
    )
    hint = f"{recorded.name}: the format has changed, and its version has not"
    assert ours["version"] == theirs["version"]
    assert golden.structure(ours) == golden.structure(theirs), hint
    assert ours["files"].keys() == theirs["files"].keys(), hint
    assert {name: entry["shape"] for name, entry in ours["tensors"].items()} == {
        name: entry["shape"] for name, entry in theirs["tensors"].items()
    }, hint
    before, after = arrays(recorded), arrays(written)
    assert all(same(after[name], tensor) for name, tensor in before.items()), hint


@pytest.mark.parametrize("folder", RUNNABLE, ids=lambda path: path.name)
def test_a_golden_folder_gives_its_answers(folder: Path) -> None:
    assert golden.answers(loaded(folder)) == golden.answers_of(folder)


@pytest.mark.parametrize("folder", ALL, ids=lambda path: path.name)
def test_a_golden_folder_is_read_on_every_machine(folder: Path) -> None:
    kind = model_folder.peek_kind(folder)
    if kind == model_folder.FROZEN:
        model_folder.read_manifest(folder, kind)
        return
    model = (CompiledModel if kind == model_folder.GENERATOR else CompiledModule).read(folder)
    assert model.recipe.notation == golden.RECIPE
    assert model.library_bytes().keys() == {"model.so"}


@pytest.mark.parametrize("kind", CURRENT)
def test_the_versions_that_are_written_now_have_golden_folders(kind: str) -> None:
    architectures = golden.CPUS if kind in (model_folder.GENERATOR, model_folder.MODULE) else ("",)
    assert {golden.name_of(kind, each) for each in architectures} <= {path.name for path in ALL}


def test_frozen_and_compiled_give_the_same_bits() -> None:
    for frozen, compiled in (CURRENT[::2], CURRENT[1::2]):
        one, other = (golden.answers_of(golden.FOLDERS / golden.name_of(kind)) for kind in (frozen, compiled))
        assert one.items() <= other.items()


@pytest.mark.parametrize("kind", CURRENT[:2])
def test_what_freeze_writes_now_is_the_recorded_format(kind: str, tmp_path: Path) -> None:
    recorded = golden.FOLDERS / golden.name_of(kind)
    assert_same_format(loaded(recorded).save(tmp_path / "again"), recorded)
    made = golden.generator() if kind == model_folder.FROZEN else golden.module()
    fields = [
        golden.structure(model_folder.read_manifest(folder))
        for folder in (made.save(tmp_path / "new"), recorded)
    ]
    assert fields[0] == fields[1]


@pytest.mark.parametrize(("frozen", "kind"), [CURRENT[::2], CURRENT[1::2]])
def test_what_lower_writes_now_is_the_recorded_format(frozen: str, kind: str, tmp_path: Path) -> None:
    model = loaded(golden.FOLDERS / golden.name_of(frozen))
    for architecture, cpu in golden.CPUS.items():
        recorded = golden.FOLDERS / golden.name_of(kind, architecture)
        written = tbt_compile.lower(model, cpu).save(tmp_path / architecture)
        assert_same_format(written, recorded)


def test_the_compiled_file_of_tensors_is_as_the_page_says() -> None:
    """Read by the words of docs/formats.md, with none of the package's code."""
    folder = golden.FOLDERS / golden.name_of(model_folder.GENERATOR, "x86-64")
    content = (folder / "tensors.bin").read_bytes()
    assert content[:64] == b"tensors of a model compiled by tbt-compile\n".ljust(64, b"\0")
    expected, end = arrays(folder), 64
    for name, entry in json.loads((folder / "manifest.json").read_text())["tensors"].items():
        assert entry["offset"] % 64 == 0 and not any(content[end : entry["offset"]])
        end = entry["offset"] + entry["bytes"]
        stored = content[entry["offset"] : end]
        if entry.get("coding") == "shuffle-deflate":
            raw = zlib.decompress(stored)
            size = np.dtype(entry["dtype"]).itemsize
            count = len(raw) // size
            stored = bytes(raw[place * count + index] for index in range(count) for place in range(size))
        values = np.frombuffer(stored, np.dtype(entry["dtype"]).newbyteorder("<")).reshape(entry["shape"])
        assert np.array_equal(values, expected[name]), name
    assert not any(content[end:])


def test_bit_planes_are_as_the_page_says() -> None:
    """The frozen words of a ternary weight, and their blocks in the compiled folder."""
    frozen = arrays(golden.FOLDERS / golden.name_of(model_folder.FROZEN))
    compiled = arrays(golden.FOLDERS / golden.name_of(model_folder.GENERATOR, "x86-64"))
    name = "model.encoder.layers.0.fc1.weight_quantizer.packed"
    packed, blocks = frozen[name].view(np.uint64), compiled[name]
    rows, planes, words = packed.shape
    assert planes == 2
    nonzero, sign = (
        [[bool(packed[row, plane, k // 64] >> np.uint64(k % 64) & np.uint64(1)) for k in range(64 * words)]
         for row in range(rows)]
        for plane in range(2)
    )  # fmt: skip
    assert any(map(any, sign)) and not any(
        minus and not there for there_row, minus_row in zip(nonzero, sign, strict=True)
        for there, minus in zip(there_row, minus_row, strict=True)
    )  # fmt: skip
    assert not any(any(row[32:]) for row in nonzero)  # K is 32
    size = blocks.shape[-1]
    for row in range(rows):
        assert np.array_equal(blocks[row // size, :, :, row % size], packed[row].T)


def names_of_fields(wanted: Any) -> set[str]:
    if isinstance(wanted, dict):
        own = {name.removesuffix(OPTIONAL) for name in wanted if isinstance(name, str)}
        return own.union(*map(names_of_fields, wanted.values()))
    if isinstance(wanted, Only):
        return names_of_fields(wanted.fields)
    if isinstance(wanted, (list, tuple)):
        return set().union(*map(names_of_fields, wanted))
    return set()


def test_the_page_names_every_field() -> None:
    wanted = (
        manifest_fields.FOLDER,
        manifest_fields.FROZEN,
        manifest_fields.GENERATOR,
        manifest_fields.MODULE,
    )
    page = PAGE.read_text()
    assert [name for name in sorted(names_of_fields(wanted)) if f"`{name}`" not in page] == []


def test_the_page_names_the_versions() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    stated = {cells[1].strip(" `"): (cells[3].strip(), cells[4].strip()) for cells in rows if len(cells) == 7}
    for name, kind in model_folder.KINDS.items():
        span = str(kind.version) if kind.oldest == kind.version else f"{kind.oldest} to {kind.version}"
        assert stated[name] == (str(kind.version), span)
