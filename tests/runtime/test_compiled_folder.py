"""Folders of compiled models: saved, moved, lost, damaged; on machines without torch or of another kind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_tools import Case, sources
from models import LONG_POSITIONS, VOCABULARY

import tbt_compile
from tbt_compile import CompiledModel
from tbt_compile.codegen.target import host
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.errors import FormatError, TargetError
from tbt_compile.storage import model_folder

TENSORS = model_folder.KINDS["compiled"].tensors
MEMORY = Path(__file__).parents[2] / "examples" / "benchmarks" / "memory.py"
IDS, MASK = sources(pad=1)


@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing(case: Case) -> None:
    expected = case.compiled.generate(IDS, MASK)
    two = case.loaded(num_threads=2)
    with ThreadPoolExecutor(1) as another:  # a thread that has no pool yet makes one of that size
        assert np.array_equal(another.submit(two.generate, IDS, MASK).result(), expected)
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
    names = (TENSORS, "model.so")
    assert all((again / name).read_bytes() == (case.folder / name).read_bytes() for name in names)
    moved = tbt_compile.load(again)
    moved.save(again)
    assert np.array_equal(tbt_compile.load(again).generate(IDS), loaded.generate(IDS))


def test_a_loaded_model_outlives_its_folder(case: Case, tmp_path: Path) -> None:
    expected = case.compiled.generate(IDS, MASK)
    folder = case.compiled.save(tmp_path / "first")
    moved = folder.rename(tmp_path / "second")
    loaded = CompiledModel.load(moved)
    moved = moved.rename(tmp_path / "third")
    assert np.array_equal(loaded.generate(IDS, MASK), expected)
    shutil.rmtree(moved)
    assert np.array_equal(loaded.generate(IDS, MASK), expected)
    saved = loaded.save(tmp_path / "fourth")
    assert np.array_equal(CompiledModel.load(saved).generate(IDS, MASK), expected)
    assert (saved / TENSORS).read_bytes() == (case.folder / TENSORS).read_bytes()


def test_two_loads_share_the_pages_of_the_weights(case: Case, tmp_path: Path) -> None:
    folder = case.compiled.save(tmp_path / "model")
    models = [CompiledModel.load(folder) for _ in range(2)]
    outputs = [model.generate(IDS, MASK) for model in models]
    assert np.array_equal(*outputs)
    _, *maps = (f"\n{Path('/proc/self/smaps').read_text()}").split(str(folder / TENSORS))
    assert len(maps) == 2
    for described in maps:
        pages = dict(re.findall(r"^(\w+): +(\d+) kB", described.partition("VmFlags")[0], re.MULTILINE))
        assert int(pages["Shared_Clean"]) + int(pages["Shared_Dirty"]) > 0
        assert int(pages["Anonymous"]) == 0  # nothing was copied


def test_the_script_that_measures_a_folder(case: Case, tmp_path: Path) -> None:
    command = [sys.executable, str(MEMORY), str(case.folder), "--repeats=1", "--source-length=8"]
    command += ["--new-tokens=2", f"--json={tmp_path / 'out.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["bytes"] == {file.name: file.stat().st_size for file in case.folder.iterdir()}
    run = figures["medians"]
    assert run["start_s"] > run["tvm_s"] + run["load_s"] > 0
    assert 0 < run["tvm_mib"] < run["loaded_mib"] < run["peak_mib"] < 150  # no compiler is in memory


def test_what_is_in_the_folder(case: Case) -> None:
    names = sorted(file.name for file in case.folder.iterdir())
    further = {"model.so", TENSORS, "tokenizer.json", "generation_config.json", model_folder.CARD}
    assert names == sorted({model_folder.MANIFEST, *further})
    manifest = model_folder.read_manifest(case.folder, "compiled")
    assert manifest["class"] == "BartForConditionalGeneration"
    assert manifest["recipe"] == case.compiled.recipe.to_dict()
    assert set(manifest["versions"]) == {"torch", "transformers", "apache-tvm"}
    (build,) = manifest["builds"]
    assert set(build["functions"]) == {"encoder", "first_step", "step"}
    assert set(manifest["files"]) == further
    assert (manifest["vocabulary"], manifest["max_positions"]) == (VOCABULARY, LONG_POSITIONS)
    assert (manifest["generation"]["num_beams"], manifest["generation"]["max_new_tokens"]) == (2, 9)
    stored = manifest["tensors"]
    assert set(stored) == {name for names in build["functions"].values() for name in names}
    block = case.compiled.target.isa.block
    shape = [-(-VOCABULARY // block), 1, 2, block]
    embedding = [name for name, entry in stored.items() if entry["shape"] == shape]
    assert len(embedding) == 1  # shared by encoder, decoder and output projection
    floats = sum(np.prod(entry["shape"]) for entry in stored.values() if entry["dtype"] == "float32")
    positions = 2 * (LONG_POSITIONS + 2) * 32
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


COMPILER_AFTERWARDS = """
import json, sys
import tbt_compile
model = tbt_compile.load(sys.argv[1])
ids, mask = json.load(sys.stdin)
alone = model.generate(ids, mask).tolist()
assert not {"torch", "transformers", "safetensors", "tvm"} & set(sys.modules)

import torch
from tbt_compile.codegen.target.host import host_target
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.tools.standalone import random_linear
from tbt_compile.encoding import Encoding
spec = LinearSpec(8, 64, Encoding.TERNARY, Encoding.TERNARY, True, True, host_target().isa)
random_linear(spec, host_target(), 1)[0]()
assert "tvm" in sys.modules
assert model.generate(ids, mask).tolist() == alone
print(json.dumps(tbt_compile.load(sys.argv[1]).generate(ids, mask).tolist()))
"""


def run_apart(script: str, folder: Path) -> list[list[int]]:
    """What a script prints that is given a folder, and the sources, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        input=json.dumps([IDS.tolist(), MASK.tolist()]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tokens: list[list[int]] = json.loads(done.stdout)
    return tokens


@pytest.mark.parametrize("script", [WITHOUT_TORCH, COMPILER_AFTERWARDS], ids=["no torch", "compiler later"])
def test_running_loads_tvm_s_runtime_alone(case: Case, script: str) -> None:
    assert run_apart(script, case.folder) == case.compiled.generate(IDS, MASK).tolist()


def copy_of(case: Case, path: Path, **changes: Any) -> Path:
    """The saved folder with another description of its library, as another machine might have written it."""
    manifest = model_folder.read_manifest(case.folder)
    arrays = model_folder.read_tensors(case.folder, manifest)
    files = {name: case.folder / name for name in manifest["files"] if name != TENSORS}
    builds = [{**build, **changes} for build in manifest["builds"]]
    return model_folder.write_folder(path, "compiled", {**manifest, "builds": builds}, arrays, files)


def test_a_library_for_another_architecture(case: Case, tmp_path: Path) -> None:
    other = "cortex-a72" if host.host_arch() == "x86_64" else "haswell"
    folder = copy_of(case, tmp_path / "other", target=parse_target(other).as_dict())
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


@pytest.mark.parametrize("name", ["model.so", TENSORS])
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
