"""Makes the folders in `tests/golden/folders`, which every later release has to load.

    python tests/golden_folders.py

A folder is named after its kind, the version of its format and, if compiled, an architecture. It stays as
it is for ever: where a version is raised, this script adds folders beside the older ones. The file of
answers beside them has what the model gave: floats as float32, little-endian, in hexadecimal digits, and
tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MLP, PAD, bart

import tbt_compile
from tbt_compile import CompiledModel, CompiledModule, FrozenModel
from tbt_compile.storage import model_folder

FOLDERS = Path(__file__).parent / "golden" / "folders"
CPUS = {"x86-64": "llvm -mcpu=x86-64", "aarch64": "llvm -mcpu=cortex-a53"}
"""By architecture, a CPU with what every machine of it has."""
PLAIN = "frozen-module"
RECIPE = "2-2-2"
IDS = [[5, 17, 90, 33, 2], [64, 8, 2, PAD, PAD]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
DECODER = np.array([[2, 7, 41], [2, 80, 11]])
X = (np.arange(24, dtype=np.float32).reshape(3, 8) - 11) / 7
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1, "max_new_tokens": 8},
    "beams": {"num_beams": 3, "max_new_tokens": 8},
    "sampled": {"do_sample": True, "seed": 4, "max_new_tokens": 8},
}
# Objects of a manifest whose names depend on the model, the CPU or a tuning of kernels.
_FREE = ("files", "tensors", "tied", "operands", "calls", "versions", "macs", "tiles", "functions", "outputs")
_FREE += ("stacks", "clock", "reads")


def name_of(kind: str, cpu: str = "") -> str:
    """The name of a folder of the version that is written now."""
    version = model_folder.KINDS[model_folder.FROZEN if kind == PLAIN else kind].version
    return "-".join(filter(None, (kind, str(version), cpu)))


def answers_of(folder: Path) -> dict[str, Any]:
    """The recorded answers of a golden folder."""
    architecture = next((f"-{name}" for name in CPUS if folder.name.endswith(f"-{name}")), "")
    recorded: dict[str, Any] = json.loads(
        (FOLDERS / f"{folder.name.removesuffix(architecture)}.json").read_text()
    )
    return recorded


def generator() -> FrozenModel:
    """A BART of one layer whose scales come from one batch."""
    model = tbt_compile.prepare(bart(layers=1, max_position_embeddings=24), RECIPE)
    model(input_ids=torch.tensor(IDS), attention_mask=torch.tensor(MASK), labels=torch.tensor(DECODER))
    return tbt_compile.freeze(model)


def module() -> FrozenModel:
    """Two linear layers."""
    torch.manual_seed(0)
    model = tbt_compile.prepare(MLP(), RECIPE, torch.from_numpy(X))
    model(torch.from_numpy(X))
    return tbt_compile.freeze(model)


def answers(model: CompiledModel | CompiledModule | FrozenModel) -> dict[str, Any]:
    """What a model gives, JSON-ready; a frozen one does not sample as a compiled one does."""
    if isinstance(model, CompiledModule):
        return {"result": _hex(model(X))}
    if isinstance(model, CompiledModel):
        session = model.session(IDS, MASK)
        logits = [session.step(tokens).copy() for tokens in np.ascontiguousarray(DECODER.T[:, :, None])]
        found = {name: model.generate(IDS, MASK, **search).tolist() for name, search in SEARCHES.items()}
        return {"logits": _hex(np.stack(logits, 1)), **found}
    if not hasattr(model.module, "generate"):
        return {"result": _hex(model(torch.from_numpy(X)).numpy())}
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    given = model(input_ids=ids, attention_mask=mask, decoder_input_ids=torch.from_numpy(DECODER)).logits
    found = {
        name: model.generate(ids, attention_mask=mask, **SEARCHES[name]).tolist()
        for name in ("greedy", "beams")
    }
    return {"logits": _hex(given.numpy()), **found}


def structure(value: Any, place: str = "") -> set[str]:
    """The places of all values in a manifest, with their types."""
    if isinstance(value, Mapping):
        free = place.rpartition(".")[2] in _FREE
        inside = [structure(each, f"{place}.{'*' if free else name}") for name, each in value.items()]
        return set().union(*inside, {f"{place}: object"})
    if isinstance(value, list):
        return set().union(*(structure(each, f"{place}[]") for each in value), {f"{place}: list"})
    return {f"{place}: {type(value).__name__}"}


def _hex(array: Any) -> str:
    return np.ascontiguousarray(array, "<f4").tobytes().hex()


def _write(name: str, model: Any) -> Path:
    folder = FOLDERS / name
    if not folder.exists():
        model().save(folder)
        print(name, model_folder.folder_bytes(folder), file=sys.stderr)
    return folder


def main() -> None:
    """Write the folders that are missing; one that is there is not changed."""
    FOLDERS.mkdir(parents=True, exist_ok=True)
    kinds = ((model_folder.FROZEN, model_folder.GENERATOR, generator), (PLAIN, model_folder.MODULE, module))
    for frozen, compiled, make in kinds:
        packed = make()
        _write(name_of(frozen), lambda packed=packed: packed)
        for architecture, cpu in CPUS.items():
            _write(
                name_of(compiled, architecture), lambda packed=packed, cpu=cpu: tbt_compile.lower(packed, cpu)
            )
        here = tbt_compile.load(FOLDERS / name_of(compiled, "x86-64"))
        for name, model in ((name_of(frozen), packed), (name_of(compiled), here)):
            (FOLDERS / f"{name}.json").write_text(json.dumps(answers(model)) + "\n")


if __name__ == "__main__":
    main()
