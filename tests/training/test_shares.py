"""Steps of gradient accumulation train as one step on the whole batch does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from training.kinds import KINDS, Kind
from transformers import PreTrainedModel, Seq2SeqTrainingArguments, set_seed

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.data.examples import RowDataset
from tbt_compile.training import DistillationTrainer, LossWeights, TrainingError
from tbt_compile.training.label_trainer import LabelTrainer
from tbt_compile.training.losses_attention import DirectionTerm, ScoreTerm
from tbt_compile.training.losses_tokens import ContrastiveTerm, LogitsTerm
from tbt_compile.training.terms import Objective, Term

ALL = LossWeights(logits=1.0, labels=1.0, hidden=1.0, attention=1.0, reverse=1.0, relations=1.0)
TERMS: dict[str, tuple[Term, ...]] = {
    "t5": (DirectionTerm(), ScoreTerm(), LogitsTerm(), ContrastiveTerm()),
    "llama": (DirectionTerm(), LogitsTerm(), ContrastiveTerm()),
}


def untrained(kind: Kind) -> PreTrainedModel:
    model = kind.model()
    for module in model.modules():
        # Each step would draw its own.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def arguments(folder: Path, rows: int, steps: int) -> Seq2SeqTrainingArguments:
    return Seq2SeqTrainingArguments(
        str(folder), per_device_train_batch_size=rows, gradient_accumulation_steps=steps, max_steps=1,
        optim="sgd", learning_rate=0.1, max_grad_norm=0.0, seed=1, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_steps=1, dataloader_pin_memory=False,
    )  # fmt: skip


def distilled(name: str, settings: Seq2SeqTrainingArguments) -> tuple[PreTrainedModel, float]:
    """A student after one update, and its loss."""
    kind = KINDS[name]
    teacher = untrained(kind)
    student = copy.deepcopy(teacher)
    set_seed(2)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    for model in (teacher, student):
        model.set_attn_implementation("eager")
    examples = kind.examples()
    trainer = DistillationTrainer(
        student, teacher, settings, objective=Objective(ALL, TERMS.get(name, ())),
        train_dataset=examples.dataset(), data_collator=examples.collator(),
    )  # fmt: skip
    trainer.train()
    return student, trainer.state.log_history[0]["loss"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_four_steps_of_two_examples_are_one_of_eight(name: str, tmp_path: Path) -> None:
    whole, loss = distilled(name, arguments(tmp_path, 8, 1))
    parts, other = distilled(name, arguments(tmp_path, 2, 4))
    assert other == pytest.approx(loss, rel=1e-5)
    start = KINDS[name].model().state_dict()
    for key, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], weight, rtol=1e-4, atol=2e-6)
        assert weight.shape == start[key].shape


@pytest.mark.filterwarnings("ignore")
def test_a_last_update_of_fewer_steps_counts_its_own_tokens(tmp_path: Path) -> None:
    kind = KINDS["t5"]
    examples = kind.examples()
    few = torch.utils.data.Subset(examples.dataset(), range(6))
    found = []
    for rows, steps in ((6, 1), (2, 4)):  # three steps of two examples, where four were asked
        model = untrained(kind)
        trainer = LabelTrainer(
            model, arguments(tmp_path, rows, steps), train_dataset=few, data_collator=examples.collator()
        )
        trainer.train()
        found.append(model)
    whole, parts = found
    for key, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], weight, rtol=1e-4, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", [False, True])
def test_learned_scales_get_the_gradient_of_the_whole_batch(offset: bool, tmp_path: Path) -> None:
    recipe = Recipe.parse("2-2-2", activation_offset=offset)
    blocks = KINDS["llama-text"].examples()
    full = torch.utils.data.Subset(blocks.dataset(), range(8))  # without padding
    found = []
    for rows, steps in ((8, 1), (2, 4)):
        student = tbt_compile.prepare(untrained(KINDS["llama"]), recipe)
        tbt_compile.set_scales(student, **blocks.collator()([full[row] for row in range(8)]))
        trainer = LabelTrainer(
            student, arguments(tmp_path, rows, steps), train_dataset=full, data_collator=blocks.collator()
        )
        trainer.train()
        found.append(student.state_dict())
    before = tbt_compile.prepare(untrained(KINDS["llama"]), recipe)
    tbt_compile.set_scales(before, **blocks.collator()([full[row] for row in range(8)]))
    moved = {
        name: weight - before.state_dict()[name]
        for name, weight in found[0].items()
        if weight.is_floating_point()
    }
    for kind in ("quantizer.scale", *["quantizer.offset"] * offset):
        assert max(change.abs().max() for name, change in moved.items() if name.endswith(kind)) > 1e-5
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=1e-4, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_step_without_labels_has_no_part_in_their_term(tmp_path: Path) -> None:
    kind = KINDS["bert"]
    corpus = kind.examples()
    rows = [dict(corpus.dataset()[row]) for row in range(4)]
    for row in rows[:2]:
        row["labels"] = -100
    found = []
    for per_step, steps in ((4, 1), (2, 2)):
        model = untrained(kind)
        settings = arguments(tmp_path, per_step, steps)
        trainer = LabelTrainer(
            model, settings, train_dataset=RowDataset(rows, [1] * 4), data_collator=corpus.collator()
        )
        trainer.train()
        found.append(model.state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=1e-4, atol=2e-6)
    for row in rows:
        row["labels"] = -100
    for dataset in (RowDataset(rows, [1] * 4), rows):
        with pytest.raises(TrainingError, match="no example has a label"):
            LabelTrainer(
                untrained(kind), settings, train_dataset=dataset, data_collator=corpus.collator()
            ).train()


def test_labels_are_not_smoothed(tmp_path: Path) -> None:
    settings = Seq2SeqTrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True)
    with pytest.raises(TrainingError, match="label_smoothing_factor=0.1"):
        LabelTrainer(untrained(KINDS["t5"]), settings)
