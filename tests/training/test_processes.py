"""Two processes that share each batch train as one process does with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import share_batch
from training.small import SETTINGS, teacher

from tbt_compile.training import TrainingError, processes, shares


def launch(count: int, *command: str) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    done = subprocess.run(
        [sys.executable, *launcher, *command],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def outcome(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "training.json").read_text())["outcome"])


def test_two_processes_have_the_loss_of_one_with_the_same_batch(tmp_path: Path) -> None:
    launch(2, share_batch.__file__, str(tmp_path / "two"), "2")
    share_batch.train(tmp_path / "one")
    # From equal weights a step is equal but for the order of sums. Then weights are 1e-7 apart, which puts a
    # value that lies between two codes into the other one; and the gradient of a learned scale depends on how
    # far a batch is padded, a share of it less far than the whole.
    exact, rounded, padded = (1e-6, 1e-5), (1e-4, 1e-3), (2e-3, 1e-2)
    for name, (loss, difference) in {
        "teacher": exact,
        "first-plain": exact,
        "first-further": exact,
        "first-offsets": exact,
        "sixth-plain": padded,
        "sixth-further": rounded,
    }.items():
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert outcome(two)["steps"] == outcome(one)["steps"]
        assert outcome(two)["loss"] == pytest.approx(outcome(one)["loss"], rel=loss)
        weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
        assert weights[0].keys() == weights[1].keys()
        for key, weight in weights[0].items():
            # Softmax takes no notice of a bias of the keys, whose gradient is rounding alone.
            if not key.endswith("k_proj.bias"):
                torch.testing.assert_close(weights[1][key], weight, rtol=0.0, atol=difference)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(TrainingError, match=f"a batch of {SETTINGS.batch_size} cannot be divided among 3"):
        teacher(tmp_path)


def test_one_process_weighs_nothing() -> None:
    assert shares.weight({}, lambda _inputs: torch.tensor([True, False])) == 1.0
    assert processes.is_first() and processes.rank() == 0
