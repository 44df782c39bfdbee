"""Loaders of folders that `fuzz.py` feeds: manifests, tensors, tokenizers, keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz_inputs import as_json, mutated_bytes, mutated_json

import tbt_compile
from tbt_compile import CompiledModel, CompiledModule
from tbt_compile.serving.tokenizing import ServedTokenizer
from tbt_compile.storage import model_folder, signatures

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "folders"
Surface = Callable[[Random], None]
"""Takes one input, made of random choices; raises what the parser raises."""


def manifests(folder: Path) -> Surface:
    """Manifests with fields of all kinds, and a right checksum; or with bytes changed."""
    kinds = small_folders(folder)
    contents = {name: (path / model_folder.MANIFEST).read_bytes() for name, path in kinds.items()}

    def one(chance: Random) -> None:
        name = chance.choice(sorted(kinds))
        path, content = kinds[name], contents[name]
        if chance.random() < 0.2:
            (path / model_folder.MANIFEST).write_bytes(mutated_bytes(content, chance))
        else:
            _rewrite(path, mutated_json(json.loads(content), chance))
        try:
            _load(name, path)
        finally:
            (path / model_folder.MANIFEST).write_bytes(content)

    return one


def tensor_files(folder: Path) -> Surface:
    """The files of tensors and libraries, with a right checksum: as one who means harm would write them."""
    kinds = small_folders(folder)

    def one(chance: Random) -> None:
        name = chance.choice(sorted(kinds))
        path = kinds[name]
        fields = json.loads((path / model_folder.MANIFEST).read_bytes())
        file = path / model_folder.KINDS[fields["kind"]].tensors
        before, manifest = file.read_bytes(), (path / model_folder.MANIFEST).read_bytes()
        file.write_bytes(mutated_bytes(before, chance))
        files = {**fields["files"], file.name: model_folder.fingerprint(file, quick=file.suffix == ".bin")}
        _rewrite(path, {**fields, "files": files})
        try:
            _load(name, path)
        finally:
            file.write_bytes(before)
            (path / model_folder.MANIFEST).write_bytes(manifest)

    return one


def tokenizers(folder: Path) -> Surface:
    """Tokenizers, their configs, and chat templates."""
    from tbt_compile.data.tokenization import train_word_tokenizer

    tokenizer = train_word_tokenizer(["a word and another , user assistant"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content | trim }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    files = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    files["chat_template.jinja"] = (folder / "chat_template.jinja").read_bytes()

    def one(chance: Random) -> None:
        name = chance.choice(sorted(files))
        whole = name.endswith(".json") and chance.random() < 0.5
        changed = (
            as_json(mutated_json(json.loads(files[name]), chance))
            if whole
            else mutated_bytes(files[name], chance)
        )
        (folder / name).write_bytes(changed)
        try:
            served = ServedTokenizer(folder, [2])
            served.encode("a word", keep_end=False)
            served.chat([{"role": "user", "content": "a word"}])
        finally:
            (folder / name).write_bytes(files[name])

    return one


def keys(folder: Path) -> Surface:
    """Keys and signatures."""
    private, content = folder / "key.pem", b"the content"
    public = signatures.make_keys(private)
    (folder / "manifest.json").write_bytes(content)
    signatures.sign(folder / "manifest.json", private)
    files = {file: file.read_bytes() for file in (private, public, folder / signatures.SIGNATURE)}

    def one(chance: Random) -> None:
        file = chance.choice(sorted(files))
        file.write_bytes(mutated_bytes(files[file], chance))
        try:
            signatures.sign(folder / "manifest.json", private)
            if file == private:
                return
            signatures.check_signature(folder, content, public)
        finally:
            for each, before in files.items():
                each.write_bytes(before)

    return one


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.relu(self.first(x)))
        return result


def small_folders(folder: Path) -> dict[str, Path]:
    """A folder of every kind, as the tests have them."""
    names = {"frozen": "frozen-1", "frozen module": "frozen-module-1"}
    names |= {"compiled": "compiled-8-x86-64", "compiled module": "compiled-module-8-x86-64"}
    return {kind: Path(shutil.copytree(GOLDEN / name, folder / kind)) for kind, name in names.items()}


def _load(name: str, path: Path) -> Any:
    """Load a folder; a compiled one is not run, since whoever wrote it may have written its code too."""
    if name.startswith("frozen"):
        return tbt_compile.load(path, _Small() if "module" in name else None)
    model = (CompiledModule if "module" in name else CompiledModel).read(path)
    return str(model), model.sizes(), model.library_bytes()


def _rewrite(path: Path, fields: Any) -> None:
    """Write a manifest with a right checksum."""
    if isinstance(fields, dict):
        fields = {**fields, model_folder.CHECKSUM: model_folder._manifest_checksum(fields)}
    (path / model_folder.MANIFEST).write_bytes(model_folder._serialized(fields))
