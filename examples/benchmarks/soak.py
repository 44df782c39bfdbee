"""Soak test: memory and threads of one process have to stay constant over thousands of generations.

    python examples/benchmarks/soak.py
    python examples/benchmarks/soak.py compiled --count 10000 --json soak.json

Without a folder, a tiny model is compiled first. The lengths of sources and outputs vary, every fourth
generation is a beam search, every tenth runs in a new thread, and every hundredth has several workers.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

BUILD = """
import sys
import torch
from transformers import BartConfig, BartForConditionalGeneration
import tbt_compile

torch.manual_seed(0)
config = BartConfig(vocab_size=500, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
                    decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128,
                    max_position_embeddings=128, forced_eos_token_id=None)
model = tbt_compile.prepare(BartForConditionalGeneration(config), recipe="2-2-2")
ids = torch.randint(3, 500, (2, 20))
model(input_ids=ids, labels=ids)
tbt_compile.lower(model.eval()).save(sys.argv[1])
"""


def held() -> dict[str, float]:
    """Current memory in MiB and number of threads of this process."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    return {"mib": int(status["VmRSS"].split()[0]) / 1024, "threads": int(status["Threads"])}


def generate(model: Any, number: int) -> None:
    """Run generation `number`, whose input and settings are determined by the number."""
    random = np.random.default_rng(number)
    limit = min(model.description["max_positions"] or 64, 64)
    vocabulary = model.description["vocabulary"]
    ids = random.integers(3, vocabulary, (int(random.integers(1, 5)), int(random.integers(1, limit))))
    length = int(random.integers(1, limit))
    settings = {"num_beams": 4 if number % 4 == 0 else 1, "min_new_tokens": length, "max_new_tokens": length}
    if number % 100 == 0:
        model.generate_many(ids.tolist(), num_workers=2, batch_size=1, **settings)
    elif number % 10 == 0:
        thread = threading.Thread(target=model.generate, args=(ids,), kwargs=settings)
        thread.start()
        thread.join()
    else:
        model.generate(ids, **settings)


def soak(model: Any, count: int, samples: int = 20) -> list[dict[str, float]]:
    """Run `count` generations and sample memory, threads and time.

    Args:
        model: a compiled model.
        count: generations.
        samples: at equal intervals, and one before the first generation.
    """
    start = time.perf_counter()
    rows = []
    for number in range(count + 1):
        if number % max(1, count // samples) == 0:
            gc.collect()
            rows.append({"generations": number, **held(), "seconds": time.perf_counter() - start})
        if number < count:
            generate(model, number)
    return rows


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="folder that `tbt lower` wrote")
    parser.add_argument("--count", type=int, default=10_000, help="generations")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    from tbt_compile.runtime.without_torch import hide_torch

    hide_torch()
    import tbt_compile

    with tempfile.TemporaryDirectory() as work:
        if options.folder is None:  # compiled in a separate process, whose memory does not count
            subprocess.run([sys.executable, "-c", BUILD, f"{work}/model"], check=True)
        model = tbt_compile.load(options.folder or f"{work}/model")
        rows = soak(model, options.count)
    print("generations      MiB  threads  seconds")
    for row in rows:
        print(f"{row['generations']:11d} {row['mib']:8.1f} {row['threads']:8d} {row['seconds']:8.1f}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
