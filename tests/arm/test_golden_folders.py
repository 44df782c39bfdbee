"""Golden folders compiled for AArch64 give the recorded bits on such a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import golden_folders as golden
import numpy as np
import pytest
from arm.machine import Machine

from tbt_compile.storage import model_folder

OLD = "cortex-a72"
FOLDERS = sorted(golden.FOLDERS.glob(f"{model_folder.GENERATOR}-[0-9]*-aarch64"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_golden_folder_gives_its_answers(folder: Path, machine: Callable[[str], Machine]) -> None:
    answers, ids, mask = golden.answers_of(folder), np.array(golden.IDS), np.array(golden.MASK)
    for name, search in golden.SEARCHES.items():
        assert machine(OLD).generate(folder, ids, mask, **search) == answers[name], name
    logits = machine(OLD).logits(folder, ids, mask, golden.DECODER)
    assert np.ascontiguousarray(logits.swapaxes(0, 1), "<f4").tobytes().hex() == answers["logits"]
