"""What a run says of its speed and memory, and what it says when there is not enough."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from training.kinds import KINDS
from training.small import SETTINGS, batch_of, model, student
from training.test_trainers import trainer

from tbt_compile.training import LossWeights, TrainingError, TrainingRun, train_teacher
from tbt_compile.training.progress import memory_gib
from tbt_compile.training.tasks import task_of

WORDS = re.compile(
    r"step \d+ of 12(, loss \d+\.\d+, rate \d\.\de-\d\d)?, (\d+) tokens/s, (\d+\.\d) GiB, \d+ s left"
)


def test_speed_and_memory_are_reported_with_the_first_step(tmp_path: Path) -> None:
    reports: list[str] = []
    student(tmp_path, progress=lambda text, share: reports.append(text))
    found = [WORDS.search(text) for text in reports]
    assert len(found) == 12 and all(found)
    assert int(found[0][2]) > 0 and 0.1 < float(found[0][3]) < 64


def test_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 7], [5, 6, 1]])
    mask, labels = (ids != 1).long(), torch.tensor([[-100, 6, 7], [-100, 6, -100]])
    expected = {
        "llama": ({"input_ids": ids, "attention_mask": mask, "labels": labels}, 5),
        "llama-text": ({"input_ids": ids, "position_ids": ids, "labels": labels}, 3),
        "t5": ({"input_ids": ids, "attention_mask": mask, "labels": labels}, 5 + 3),
        "bert": ({"input_ids": ids, "attention_mask": mask, "labels": labels[:, 0]}, 5),
        "whisper": ({"input_features": torch.zeros(2, 3), "labels": labels}, 3),
    }
    for kind, (inputs, tokens) in expected.items():
        assert int(task_of(KINDS[kind].model()).tokens(inputs)) == tokens, kind


def test_logs_have_them_too(tmp_path: Path) -> None:
    distilling = trainer(model(), model(), tmp_path)
    distilling.log({"loss": 1.0})
    entry = distilling.state.log_history[-1]
    assert entry["tokens_per_second"] == 0.0  # nothing was trained yet
    assert entry["memory_gib"] == pytest.approx(memory_gib(), rel=0.5)


class Greedy(torch.nn.Module):
    """Asks for more memory than there is."""

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.empty(2**60)


@pytest.mark.parametrize("attention", [0.0, 1.0])
def test_a_full_memory_says_what_to_lower(attention: float, tmp_path: Path) -> None:
    pupil, inputs = model(), batch_of(4)
    distilling = trainer(pupil, model(), tmp_path, weights=LossWeights(attention=attention))
    distilling.create_optimizer()
    pupil.lm_head = Greedy()
    maps = ", the weight of attention maps (to 0)" if attention else ""
    words = f"lower the batch size, the lengths of sources and targets{maps} or the number of compared layers"
    with pytest.raises(TrainingError, match=re.escape(words)) as caught:
        distilling.training_step(pupil, inputs)
    assert f"a step on input_ids {list(inputs['input_ids'].shape)}" in str(caught.value)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    broken = model()
    broken.lm_head = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train_teacher(broken, KINDS["t5"].examples(), TrainingRun(tmp_path, SETTINGS))
