"""Settings that every test shares: one thread, fixed seeds, and property tests that repeat exactly."""

from __future__ import annotations

import gc
import os
import random
import signal
from pathlib import Path

# Set before torch, TVM or tokenizers is imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# All workers share what one compiled, and so does the next run.
os.environ.setdefault("TBT_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels"))

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# A shell that starts something in the background has it ignore interrupts, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
# Captured graphs and kernels are millions of objects, all alive: a collection finds nothing and takes long.
gc.freeze()
gc.set_threshold(200_000, 20, 20)
# Compiling a kernel inside a property test takes longer than hypothesis' usual patience.
settings.register_profile(
    "project", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Give each test the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
