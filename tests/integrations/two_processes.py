"""Train a prepared model, sharded by FSDP2 or copied by DDP, in as many processes as launched this."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, save_fsdp_model
from models import batch, llama
from torch import Tensor

import tbt_compile
from tbt_compile.errors import PlanError

LAYERS = ["LlamaDecoderLayer"]
OPTIONS = {"untied": {}, "tied": {"tie_word_embeddings": True}}
SHARDS = "shards"


def accelerator(shard: list[str] | None) -> Accelerator:
    """An accelerator on CPUs; given names of layers, one that shards them.

    accelerate shards on accelerators only, so it is told that this is one. What then runs is its own code:
    wrapping, tied weights, the optimizer's parameters, clipping, state dicts.
    """
    made = Accelerator(cpu=True)
    if shard is not None:
        made.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=shard,
            cpu_ram_efficient_loading=False,
        )
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
    return made


def examples(model: Any) -> dict[str, Tensor]:
    """Four rows without padding: both halves of the batch hold as many tokens."""
    inputs = batch(model, rows=4)
    return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}


def train(embedding: str, engine: str, folder: Path, steps: int = 3) -> list[float]:
    """Train, save to the folder, and return the losses of the whole batch."""
    engine_of = accelerator(LAYERS if engine == "fsdp" else None)
    torch.manual_seed(0)
    model = tbt_compile.prepare(llama(**OPTIONS[embedding]), "2-2-2").train()
    inputs = examples(model)
    if engine_of.num_processes > 1:
        with pytest.raises(PlanError, match="call tbt_compile.set_scales"):
            model(**inputs)
    tbt_compile.set_scales(model, **inputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = engine_of.prepare(model, optimizer)
    mine = {k: v[engine_of.process_index :: engine_of.num_processes] for k, v in inputs.items()}
    losses = []
    for _ in range(steps):
        loss = model(**mine).loss
        engine_of.backward(loss)
        engine_of.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(engine_of.reduce(loss.detach(), "mean")))
    # Gathered on a CPU, tensors are results that are waited for when they are used: copies are plain.
    state = {name: tensor.clone() for name, tensor in engine_of.get_state_dict(model).items()}
    whole = engine_of.unwrap_model(model)
    whole.save_pretrained(folder, state_dict=state, is_main_process=engine_of.is_main_process)
    if engine == "fsdp":
        save_fsdp_model(engine_of.state.fsdp_plugin, engine_of, model, folder / SHARDS)
    return losses


if __name__ == "__main__":
    _, embedding, engine, folder = sys.argv
    losses = train(embedding, engine, Path(folder))
    if int(os.environ["RANK"]) == 0:
        torch.save(losses, Path(folder) / "losses.pt")
    torch.distributed.destroy_process_group()
