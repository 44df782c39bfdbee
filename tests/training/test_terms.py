"""Further terms of the distillation loss against sums written out by hand, on a small real model."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from training.small import corpus, model

import tbt_compile
from tbt_compile.data.batches import PairCollator
from tbt_compile.training import TrainingError
from tbt_compile.training.losses_attention import DirectionTerm, ScoreTerm, attention_modules
from tbt_compile.training.losses_tokens import LogitsTerm, contrastive
from tbt_compile.training.terms import LayerMap, Watch


def batch() -> dict[str, Tensor]:
    dataset = corpus().dataset()
    inputs = PairCollator(pad_token_id=1)([dataset[index] for index in range(2)])
    inputs["attention_mask"][1, -2:] = 0
    inputs["labels"][1, -1:] = -100
    return inputs


def test_contrast_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    keep = torch.tensor([[True, True, True], [True, True, False]])
    losses = []
    for b, i in keep.nonzero().tolist():
        scores = [
            math.exp(torch.cosine_similarity(student[b, i], teacher[b, j], dim=0).item() / 0.5)
            for j in range(3)
            if keep[b, j]
        ]
        losses.append(-math.log(scores[i] / sum(scores)))
    assert contrastive(student, teacher, keep, 0.5).item() == pytest.approx(sum(losses) / 5, rel=1e-5)


def test_logits() -> None:
    ours, theirs = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    rows = [(0, 0), (0, 1), (0, 2), (1, 0)]
    expected = sum((ours[row] - theirs[row]).square().sum().item() for row in rows) / 20
    measure = LogitsTerm().bind(model(), model(), Watch())
    found = measure(SimpleNamespace(logits=ours), SimpleNamespace(logits=theirs), {"labels": labels})
    assert found.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def by_hand(
    teacher: torch.nn.Module, student: torch.nn.Module, inputs: dict[str, Tensor], term: str
) -> float:
    """Both terms for float models, from projections that hooks have caught, head by head, pair by pair."""
    read, written = inputs["attention_mask"].bool(), inputs["labels"] != -100
    caught: list[dict[str, Tensor]] = []
    for network in (student, teacher):
        values: dict[str, Tensor] = {}
        hooks = [
            getattr(module, part).register_forward_hook(
                lambda _m, _a, out, key=f"{name}.{part}", store=values: store.__setitem__(key, out)
            )
            for name, module in attention_modules(network)
            for part in ("q_proj", "k_proj", "v_proj")
        ]
        network(**inputs)
        for hook in hooks:
            hook.remove()
        caught.append(values)
    total, width = 0.0, 8
    for name, _ in attention_modules(teacher):
        cross = name.endswith("encoder_attn")
        queries = written if "decoder" in name else read
        keys = written if "decoder" in name and not cross else read
        parts = [(a, queries if a == "q_proj" else keys) for a in ("q_proj", "k_proj", "v_proj")]
        if term == "scores":
            errors = [
                ((s.q @ s.k - t.q @ t.k) / math.sqrt(width)).item() ** 2
                for b in range(2)
                for h in range(2)
                for i in queries[b].nonzero().flatten().tolist()
                for j in keys[b].nonzero().flatten().tolist()
                if cross or "encoder" in name.split(".")[1] or j <= i
                for s, t in [
                    tuple(
                        SimpleNamespace(
                            q=values[f"{name}.q_proj"][b, i, h * width : (h + 1) * width],
                            k=values[f"{name}.k_proj"][b, j, h * width : (h + 1) * width],
                        )
                        for values in caught
                    )
                ]
            ]
            total += sum(errors) / len(errors)
            continue
        for part, keep in parts:
            errors = []
            for b in range(2):
                for h in range(2):
                    matrices = []
                    for values in caught:
                        x = values[f"{name}.{part}"][b, keep[b], h * width : (h + 1) * width]
                        products = x @ x.T
                        matrices.append(products / products.norm(dim=-1, keepdim=True))
                    square = (matrices[0] - matrices[1]).square()
                    errors += square.flatten().tolist()
            total += sum(errors) / len(errors)
    return total


@pytest.mark.parametrize(("term", "kind"), [("scores", ScoreTerm), ("directions", DirectionTerm)])
def test_attention_terms_by_hand(term: str, kind: type) -> None:
    teacher = model().eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    inputs = batch()
    measure = kind().bind(student, teacher, Watch())
    with torch.no_grad():
        outputs = student(**inputs), teacher(**inputs)
        found = measure(*outputs, inputs).item()
    assert found == pytest.approx(by_hand(teacher, student, inputs, term), rel=1e-4)


def test_scores_of_a_prepared_student_are_those_of_its_quantized_queries_and_keys() -> None:
    teacher = model().eval()
    student = tbt_compile.prepare(copy.deepcopy(teacher), "2-2-2").eval()
    inputs = batch()
    measure = ScoreTerm().bind(student, teacher, Watch())
    loss = measure(student(**inputs), teacher(**inputs), inputs)
    loss.backward()
    assert loss.item() > 0
    assert student.model.encoder.layers[0].self_attn.tbt_attention.query.scale.grad.abs() > 0


def test_a_layer_map_picks_hidden_states_after_the_embeddings() -> None:
    outputs = SimpleNamespace(
        logits="logits",
        loss="loss",
        encoder_hidden_states=["embedding", "e0", "e1", "e2"],
        decoder_hidden_states=["embedding", "d0", "d1"],
        encoder_attentions=["a0", "a1", "a2"],
        decoder_attentions=["b0", "b1"],
        cross_attentions=None,
    )
    chosen = LayerMap((0, 2), (1,)).select(outputs)
    assert chosen.encoder_hidden_states == ["embedding", "e0", "e2"]
    assert chosen.decoder_hidden_states == ["embedding", "d1"]
    assert (chosen.encoder_attentions, chosen.decoder_attentions) == (["a0", "a2"], ["b1"])
    assert chosen.cross_attentions is None


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(TrainingError, match="has no attention with q_proj"):
        ScoreTerm().bind(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), Watch())


def test_models_are_left_as_they_were() -> None:
    teacher, student, watch = model(), model(), Watch()
    ScoreTerm().bind(student, teacher, watch)
    DirectionTerm().bind(student, teacher, watch)
    assert any(module._forward_hooks for module in teacher.modules())
    watch.stop()
    assert not any(module._forward_hooks for network in (teacher, student) for module in network.modules())


@pytest.mark.parametrize("kind", [DirectionTerm, ScoreTerm])
def test_padding_has_no_part_in_a_term(kind: type) -> None:
    student, teacher = model().eval(), model().eval()
    watch = Watch()
    measure = kind().bind(student, teacher, watch)
    short = batch()
    wider = {
        name: torch.nn.functional.pad(value, (0, 3), value={"labels": -100, "input_ids": 7}.get(name, 0))
        for name, value in short.items()
    }
    found = []
    for inputs in (short, wider):
        with torch.no_grad():
            theirs = teacher(**inputs)
            found.append(measure(student(**inputs), theirs, inputs))
    watch.stop()
    torch.testing.assert_close(found[1], found[0])
