"""Readers of files that `fuzz.py` feeds: configs, safetensors, GGUF, JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz_folders import Surface
from fuzz_inputs import as_json, mutated_bytes, mutated_json
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tbt_compile.bench.gguf_header import close_gguf, opened_gguf
from tbt_compile.bench.model_shapes import Shape
from tbt_compile.checkpoints.gguf_file import GgufCheckpoint
from tbt_compile.checkpoints.source import SafetensorsCheckpoint
from tbt_compile.cli.models import stage_of
from tbt_compile.data.labeled_texts import label_reader
from tbt_compile.data.records import read_lines
from tbt_compile.data.text_pairs import read_pairs

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}


def configs(folder: Path) -> Surface:
    """config.json of a checkpoint."""
    _checkpoint(folder)
    content = json.loads((folder / "config.json").read_text())

    def one(chance: Random) -> None:
        changed = as_json(mutated_json(content, chance))
        (folder / "config.json").write_bytes(
            changed if chance.random() < 0.9 else mutated_bytes(changed, chance)
        )
        stage_of(folder)
        SafetensorsCheckpoint(folder)

    return one


def safetensors(folder: Path) -> Surface:
    """The header and the data of a safetensors file."""
    _checkpoint(folder)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")

    def one(chance: Random) -> None:
        head, rest = content[:size], content[size:]
        if chance.random() < 0.5:
            fields = as_json(mutated_json(json.loads(head[8:]), chance))
            head = len(fields).to_bytes(8, "little") + fields
        elif chance.random() < 0.9:
            head = mutated_bytes(head, chance)
        else:
            rest = mutated_bytes(rest, chance)
        file.write_bytes(head + rest)
        checkpoint = SafetensorsCheckpoint(folder)
        for name in list(checkpoint.names):
            checkpoint.tensor(name)

    return one


def gguf(folder: Path) -> Surface:
    """GGUF files: mostly the header."""
    path = folder / "model.gguf"
    shape = Shape("small", "llama", 64, 32, 1, 2, 32, 32, 2)
    writer = opened_gguf(path, shape, 1e-5, 10000.0)
    writer.add_string("general.name", "small")
    for name, rows, columns in (("token_embd", 64, 32), ("output", 64, 32), ("blk.0.attn_q", 32, 32)):
        writer.add_tensor(f"{name}.weight", np.ones((rows, columns), np.float32))
    close_gguf(writer)
    content = path.read_bytes()
    header = len(content) - 4 * (64 + 64 + 32) * 32

    def one(chance: Random) -> None:
        path.write_bytes(mutated_bytes(content[:header], chance) + content[header:])
        checkpoint = GgufCheckpoint(path)
        for name in list(checkpoint.names):
            checkpoint.tensor(name)

    return one


def json_lines(folder: Path) -> Surface:
    """Data sets in JSON lines."""
    file = folder / "train.jsonl"
    rows: list[dict[str, Any]] = [
        {"source": "A text.", "target": "its title"},
        {"source": "ä", "target": "\U0001f600"},
    ]

    def one(chance: Random) -> None:
        lines = [as_json(mutated_json(row, chance) if chance.random() < 0.5 else row) for row in rows]
        content = b"\n".join(lines)
        file.write_bytes(mutated_bytes(content, chance) if chance.random() < 0.5 else content)
        if chance.random() < 0.5:
            read_pairs(file)
        else:
            read_lines(file, label_reader({"its title": 0}, "source", "target"))

    return one


def _checkpoint(folder: Path) -> None:
    """A Llama of transformers."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"]))
    model.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
