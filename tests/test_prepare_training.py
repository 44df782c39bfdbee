"""Prepared models train as before: optimizer steps, gradient checkpointing, transformers' own trainer."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from models import FAMILIES, Classifier, bart, batch, prepared
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments

import tbt_compile


def gradients(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def enable_checkpointing(model: PreTrainedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of transformers rename the method
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_moves_weights_and_scales(family: str) -> None:
    model = prepared(family).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(**batch(model)).loss.backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    scales = {name for name in before if name.endswith(".scale")}
    assert len(scales & moved) > len(scales) // 2
    weights = {
        name for name in before if name.endswith("weight") and "norm" not in name and "ln_" not in name
    }
    assert len(weights & moved) > len(weights) // 2


def test_loss_falls() -> None:
    torch.manual_seed(0)
    model = Classifier()
    x, labels = torch.randn(16, 5, 16), torch.randint(0, 3, (16,))
    tbt_compile.prepare(model, "2-2-2", x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(family: str) -> None:
    model = prepared(family).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "activation_dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    model.config.use_cache = False
    inputs = batch(model)
    model(**inputs)
    expected = gradients(model, inputs)
    enable_checkpointing(model)
    found = gradients(model, inputs)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        # A tensor that is computed again may lie in memory in another way, which changes the order of sums.
        near = max(1e-6, 1e-5 * float(gradient.abs().max()))
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=near, msg=name)


def test_first_batch_may_be_checkpointed() -> None:
    """Scales take their first value inside of a checkpointed segment, whose recomputation has to agree."""
    model = tbt_compile.prepare(bart(dropout=0.0), "2-2-2").train()
    enable_checkpointing(model)
    model(**batch(model), use_cache=False).loss.backward()
    scales = [p for name, p in model.named_parameters() if name.endswith(".scale")]
    assert all(p.grad is not None and torch.isfinite(p.grad) for p in scales)


class _Pairs(Dataset[dict[str, Tensor]]):
    def __init__(self, model: PreTrainedModel) -> None:
        self.rows = batch(model, rows=4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.rows.items()}


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_seq2seq_trainer_trains_evaluates_and_saves(family: str, tmp_path: Path) -> None:
    model = prepared(family, layers=1)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        generation_max_length=8,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=_Pairs(model), eval_dataset=_Pairs(model))
    scale = model.get_encoder().get_submodule("layers" if hasattr(model.get_encoder(), "layers") else "block")
    before = [p.detach().clone() for name, p in scale.named_parameters() if name.endswith(".scale")]
    result = trainer.train()
    assert result.global_step == 2
    after = [p for name, p in scale.named_parameters() if name.endswith(".scale")]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))
    trainer.save_model(str(tmp_path / "model"))
    loaded = type(model).from_pretrained(tmp_path / "model")
    inputs = batch(model)
    model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
