"""The levers of transformers' `TrainingArguments` on a prepared model: each trains weights and scales."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from models import batch, llama
from transformers import Trainer, TrainingArguments

import tbt_compile
from tbt_compile import Encoding
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer

LEVERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"bf16": True},
    "checkpointing": {"gradient_checkpointing": True},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "fused": {"optim": "adamw_torch_fused"},
    "adafactor": {"optim": "adafactor"},
    "8-bit": {"optim": "adamw_torch_8bit"},
    "compiled": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
}


@pytest.fixture(autouse=True)
def _dynamo_only_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`torch_compile` sets a variable and a state of the whole process, which other tests would follow."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@functools.cache
def original() -> Any:
    model = tbt_compile.prepare(llama(layers=1), "2-2-2")
    tbt_compile.set_scales(model, **batch(model, rows=4))
    return model


def trained(folder: Path, options: dict[str, Any]) -> tuple[Any, list[float]]:
    """A copy of the model after three steps on one batch, and the losses."""
    model = copy.deepcopy(original()).train()
    rows = [{name: value[i] for name, value in batch(model, rows=4).items()} for i in range(4)]
    defaults = {"per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-2}
    fixed: dict[str, Any] = {
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 1,
    }
    fixed["lr_scheduler_type"] = "constant"  # steps of falling length may cancel
    arguments = TrainingArguments(str(folder), **{**defaults, **fixed, "disable_tqdm": True, **options})
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.filterwarnings("ignore")  # dynamo's own, and pinned memory where there is no accelerator
@pytest.mark.parametrize("lever", LEVERS)
def test_a_lever_trains_weights_and_scales(lever: str, tmp_path: Path) -> None:
    if lever == "8-bit":
        pytest.importorskip("torchao")
    model, losses = trained(tmp_path, LEVERS[lever])
    torch.compiler.reset()
    assert len(losses) == 3 and all(loss == loss for loss in losses)
    before = dict(original().named_parameters())
    for name, value in model.named_parameters():
        assert torch.isfinite(value).all(), name
        assert value.dtype is torch.float32, name
        if name.endswith((".scale", "q_proj.weight", "embed_tokens.weight")):
            assert not torch.equal(value, before[name]), name
    tolerance = {"bf16": 0.1, "adafactor": 10.0, "8-bit": 0.2, "accumulation": 0.01}.get(lever, 1e-4)
    assert losses[0] == pytest.approx(reference(tmp_path)[0], abs=min(tolerance, 0.05))
    assert losses[-1] == pytest.approx(reference(tmp_path)[-1], abs=tolerance)


_REFERENCE: list[float] = []


def reference(folder: Path) -> list[float]:
    """The losses without any lever."""
    if not _REFERENCE:
        _REFERENCE.extend(trained(folder, {})[1])
    return _REFERENCE


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8])
def test_codes_and_statistics_are_those_of_float32_under_autocast(encoding: Encoding) -> None:
    weight, x = torch.randn(7, 65), torch.randn(3, 65).bfloat16()
    for quantizer, value, wide in (
        (WeightQuantizer(encoding), weight, weight),
        (ActivationQuantizer(encoding), x, x.float()),
    ):
        expected = copy.deepcopy(quantizer)(wide)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            codes, scale = quantizer(value)
        assert codes.dtype == value.dtype and scale.dtype is torch.float32
        assert torch.equal(codes.float(), expected.codes)
        assert torch.equal(scale, expected.scale)
