"""The distillation loss against sums written out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tbt_compile.training import LossWeights, TrainingError, distillation_terms
from tbt_compile.training.tasks import EncoderDecoderTask

LAYERS, B, S, T, D, H, V = 2, 2, 4, 3, 5, 2, 7
EVERYTHING = LossWeights(logits=0.5, labels=0.25, hidden=2.0, attention=3.0, temperature=2.0)


def outputs(seed: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, requires_grad=True)

    return SimpleNamespace(
        loss=values(),
        logits=values(B, T, V),
        encoder_hidden_states=[values(B, S, D) for _ in range(LAYERS + 1)],
        decoder_hidden_states=[values(B, T, D) for _ in range(LAYERS + 1)],
        encoder_attentions=[values(B, H, S, S) for _ in range(LAYERS)],
        decoder_attentions=[values(B, H, T, T) for _ in range(LAYERS)],
        cross_attentions=[values(B, H, T, S) for _ in range(LAYERS)],
    )


LABELS = torch.tensor([[4, 5, 2], [6, 2, -100]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
BATCH = {"labels": LABELS, "attention_mask": MASK}
TASK = EncoderDecoderTask()
WRITTEN = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
READ = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@torch.no_grad()
def by_hand_logits(student: SimpleNamespace, teacher: SimpleNamespace, temperature: float) -> float:
    total = 0.0
    for b, t in WRITTEN:
        p = [math.exp(v / temperature) for v in teacher.logits[b, t].tolist()]
        q = [math.exp(v / temperature) for v in student.logits[b, t].tolist()]
        total -= sum(pi / sum(p) * math.log(qi / sum(q)) for pi, qi in zip(p, q, strict=True))
    return total / len(WRITTEN) * temperature**2


@torch.no_grad()
def by_hand_hidden(student: SimpleNamespace, teacher: SimpleNamespace) -> float:
    layers = []
    for name, kept in (("encoder_hidden_states", READ), ("decoder_hidden_states", WRITTEN)):
        for s, t in zip(getattr(student, name), getattr(teacher, name), strict=True):
            squares = [float(s[b, i, d] - t[b, i, d]) ** 2 for b, i in kept for d in range(D)]
            layers.append(sum(squares) / len(squares))
    return sum(layers) / len(layers)


@torch.no_grad()
def by_hand_attention(student: SimpleNamespace, teacher: SimpleNamespace) -> float:
    layers = []
    kept = {"encoder_attentions": (READ, READ), "decoder_attentions": (WRITTEN, WRITTEN)}
    kept["cross_attentions"] = (WRITTEN, READ)
    for name, (queries, keys) in kept.items():
        for s, t in zip(getattr(student, name), getattr(teacher, name), strict=True):
            squares = [
                float(s[b, h, q, k] - t[b, h, q, k]) ** 2
                for b, q in queries
                for other, k in keys
                if other == b
                for h in range(H)
            ]
            layers.append(sum(squares) / len(squares))
    return sum(layers) / len(layers)


def test_every_term_equals_the_sum_by_hand() -> None:
    student, teacher = outputs(1), outputs(2)
    terms = distillation_terms(student, teacher, BATCH, EVERYTHING, TASK)
    hand = {
        "logits": by_hand_logits(student, teacher, 2.0),
        "labels": student.loss.item(),
        "hidden": by_hand_hidden(student, teacher),
        "attention": by_hand_attention(student, teacher),
    }
    found = {name: term.item() for name, term in terms.present().items()}
    assert found == pytest.approx(hand, rel=1e-5)
    weighted = 0.5 * hand["logits"] + 0.25 * hand["labels"] + 2 * hand["hidden"] + 3 * hand["attention"]
    assert terms.weighted(EVERYTHING).item() == pytest.approx(weighted, rel=1e-5)


def test_padding_changes_neither_the_loss_nor_any_gradient() -> None:
    student, teacher, other = outputs(1), outputs(2), outputs(1)
    with torch.no_grad():
        other.logits[1, 2] += 100.0
        other.decoder_hidden_states[1][1, 2] -= 50.0
        other.encoder_hidden_states[0][1, 2:] += 7.0
        other.cross_attentions[1][1, :, :, 2:] += 9.0
        other.decoder_attentions[0][1, :, 2] += 9.0
    first = distillation_terms(student, teacher, BATCH, EVERYTHING, TASK).weighted(EVERYTHING)
    second = distillation_terms(other, teacher, BATCH, EVERYTHING, TASK).weighted(EVERYTHING)
    assert torch.equal(first, second)
    second.backward()
    assert torch.count_nonzero(other.logits.grad[1, 2]) == 0
    assert torch.count_nonzero(other.encoder_hidden_states[0].grad[1, 2:]) == 0
    assert torch.count_nonzero(other.encoder_hidden_states[0].grad[1, :2]) > 0


def test_terms_of_weight_zero_are_not_computed() -> None:
    student, teacher = SimpleNamespace(logits=outputs(1).logits), SimpleNamespace(logits=outputs(2).logits)
    terms = distillation_terms(student, teacher, BATCH, LossWeights(hidden=0.0), TASK)
    assert list(terms.present()) == ["logits"]


def test_a_student_equal_to_its_teacher_has_only_the_teachers_entropy_left() -> None:
    same = outputs(1)
    terms = distillation_terms(same, same, BATCH, LossWeights(attention=1.0), TASK)
    p = torch.softmax(same.logits[[b for b, _ in WRITTEN], [t for _, t in WRITTEN]], -1)
    assert terms.logits is not None
    assert terms.logits.item() == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-5)
    assert terms.hidden is not None
    assert terms.hidden.item() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": -1.0}, "loss weight hidden=-1.0"),
        ({"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ({"hidden": float("nan")}, "loss weight hidden=nan"),
        ({"logits": 0.0, "hidden": 0.0}, "every loss weight is 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        LossWeights(**options)
