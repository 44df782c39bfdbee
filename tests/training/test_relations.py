"""Reverse divergence, attention relations and subsets of layers, against sums written out by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from models import gpt2, llama
from torch import Tensor
from training.kinds import KINDS
from training.small import SETTINGS, batch_of, model
from training.test_losses import BATCH, TASK, WRITTEN, outputs
from training.test_trainers import trainer

import tbt_compile
from tbt_compile.training import LossWeights, TrainingError, TrainingRun, distill, distillation_terms
from tbt_compile.training.losses_relations import RelationTerm, relation
from tbt_compile.training.soft_labels import reverse_divergence, soft_cross_entropy
from tbt_compile.training.terms import Watch


def test_reverse_divergence_by_hand() -> None:
    student, teacher = outputs(1), outputs(2)
    weights = LossWeights(logits=0.0, hidden=0.0, reverse=1.0, temperature=2.0)
    found = distillation_terms(student, teacher, BATCH, weights, TASK)
    total = 0.0
    for b, t in WRITTEN:
        q, p = (
            [math.exp(value / 2) for value in model.logits[b, t].tolist()] for model in (student, teacher)
        )
        q, p = [value / sum(q) for value in q], [value / sum(p) for value in p]
        total += sum(x * math.log(x / y) for x, y in zip(q, p, strict=True))
    assert found.reverse is not None
    assert found.reverse.item() == pytest.approx(4 * total / len(WRITTEN), rel=1e-5)
    assert list(found.present()) == ["reverse"]
    found.weighted(weights).backward()
    assert student.logits.grad.abs().sum() > 0 and teacher.logits.grad is None


def test_the_two_divergences_have_their_minimum_at_the_teacher() -> None:
    teacher = torch.randn(3, 5)
    for loss in (reverse_divergence, soft_cross_entropy):
        student = teacher.clone().requires_grad_()
        loss(student, teacher, 1.5).backward()
        assert student.grad.abs().max() < 1e-6


def test_relations_by_hand() -> None:
    x = torch.randn(1, 2, 3, 4)
    keep = torch.tensor([[[True, True, False], [True, True, False], [False, False, False]]])
    found = relation(x, keep).exp()
    for head in range(2):
        for i in range(2):
            scores = [math.exp(float(x[0, head, i] @ x[0, head, j]) / 2) for j in range(2)]
            assert found[0, head, i, :2].tolist() == pytest.approx(
                [s / sum(scores) for s in scores], rel=1e-5
            )
    assert found[0, :, :2, 2].count_nonzero() == 0


def by_hand(
    student: torch.nn.Module, teacher: torch.nn.Module, inputs: dict[str, Tensor], layer: int
) -> float:
    """The term of one layer of a Llama or GPT-2, from what hooks catch."""
    caught: list[list[Tensor]] = []
    for network in (student, teacher):
        values: list[Tensor] = []
        if hasattr(network, "transformer"):
            modules = [network.transformer.h[layer].attn.c_attn]
        else:
            attention = network.model.layers[layer].self_attn
            modules = [attention.q_proj, attention.k_proj, attention.v_proj]
        hooks = [m.register_forward_hook(lambda _m, _a, out, to=values: to.append(out)) for m in modules]
        with torch.no_grad():
            network(**inputs)
        for hook in hooks:
            hook.remove()
        caught.append(values if len(values) == 3 else list(values[0].split(values[0].shape[-1] // 3, -1)))
    losses = []
    for ours, theirs in zip(*caught, strict=True):
        rows = []
        for b, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            for h in range(ours.shape[-1] // 16):
                q, p = (
                    torch.softmax(x[b, :length, 16 * h :][:, :16] @ x[b, :length, 16 * h :][:, :16].T / 4, -1)
                    for x in (ours, theirs)
                )
                rows += (p * (p / q).log()).sum(-1).tolist()
        losses.append(sum(rows) / len(rows))
    return sum(losses) / 3


@pytest.mark.parametrize("family", [llama, gpt2])
def test_the_term_of_one_layer_by_hand(family: object) -> None:
    teacher = family(initializer_range=0.1)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    inputs = (
        KINDS["llama"]
        .examples()
        .collator()(
            [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}, {"input_ids": [9, 4], "labels": [9, 4]}]
        )
    )
    measure = RelationTerm(layers=(-1,)).bind(student, teacher, Watch())
    with torch.no_grad():
        found = measure(student(**inputs), teacher(**inputs), inputs).item()
    assert found == pytest.approx(by_hand(student, teacher, inputs, 1), rel=1e-4)


def test_only_the_chosen_layers_count(tmp_path: Path) -> None:
    teacher = llama(3, initializer_range=0.1)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.model.layers[1].mlp.down_proj.weight.add_(1.0)
    dataset = KINDS["llama"].examples()
    inputs = {name: value % 90 if name == "input_ids" else value for name, value in
              dataset.collator()([dataset.dataset()[row] for row in range(3)]).items()}  # fmt: skip
    for layers, differs in (((0,), False), ((1,), True), ((0, -2), True)):
        weights = LossWeights(logits=0.0, hidden=1.0, layers=layers)
        with torch.no_grad():
            loss = trainer(student, teacher, tmp_path, weights=weights).compute_loss(student, inputs)
        assert (loss > 0) == differs


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    weights = LossWeights(layers=(5,))
    with pytest.raises(TrainingError, match="layer 5 of a stack of 1"):
        trainer(model(), model(), tmp_path, weights=weights).compute_loss(model(), batch_of(4))
    with pytest.raises(TrainingError, match="layer 5 of a stack of 1"):
        trainer(model(), model(), tmp_path, weights=LossWeights(relations=1.0, layers=(5,)))
    with pytest.raises(TrainingError, match=r"layers=\(\)"):
        LossWeights(layers=())


@pytest.mark.parametrize("kind", ["llama-text", "t5", "bert", "whisper"])
def test_relations_train_every_kind(kind: str, tmp_path: Path) -> None:
    made, weights = KINDS[kind], LossWeights(logits=0.0, hidden=0.0, relations=1.0, layers=(-1,))
    teacher, examples = made.model(), made.examples()
    dataset = examples.dataset()
    inputs = examples.collator()([dataset[row] for row in range(6)])
    pupil = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2")
    loss = trainer(pupil, teacher, tmp_path / "trainer", weights=weights).compute_loss(pupil, inputs)
    loss.backward()
    assert math.isfinite(loss.item()) and loss.item() > 0
    distill(teacher, "2-2-2", examples, TrainingRun(tmp_path / "run", SETTINGS), objective=weights)
