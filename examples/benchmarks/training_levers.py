"""Time and memory of a training step on a CPU, with each lever that trades one for the other.

    python examples/benchmarks/training_levers.py
    python examples/benchmarks/training_levers.py --shape small --levers fp32 bf16 --json out.json

A step is forward, backward, gradient clipping and the optimizer, of a random Llama with next-token loss on
one batch of random tokens. "off" is the model without quantizers. Every row is a process of its own, and so
is the peak memory of its steps: Linux's VmHWM, with the libraries. Seconds are medians of CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

SHAPES = {
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "small": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 512,
    },
}
LEVERS = {
    "off": "float32, no quantizers",
    "fp32": "float32",
    "bf16": "torch.autocast in bfloat16",
    "medium": "products of float32 in bfloat16 (set_float32_matmul_precision)",
    "checkpointing": "gradient checkpointing",
    "adafactor": "Adafactor for AdamW",
    "8-bit": "AdamW with 8-bit state (torchao)",
    "together": "checkpointing, bfloat16 autocast, 8-bit AdamW",
}


def memory(name: str) -> float:
    """A field of this process's /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


def make_optimizer(lever: str, parameters: Any) -> Any:
    """The optimizer of a row."""
    import torch

    if lever == "adafactor":
        return torch.optim.Adafactor(parameters, lr=1e-4)
    if lever in ("8-bit", "together"):
        from torchao.optim import AdamW8bit

        return AdamW8bit(parameters, lr=1e-4)
    return torch.optim.AdamW(parameters, lr=1e-4)


def work(arguments: argparse.Namespace) -> dict[str, float]:
    """The body of a row's process: train a few steps; returns seconds and MiB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import tbt_compile

    torch.set_num_threads(arguments.threads)
    (lever,) = arguments.levers
    if lever == "medium":
        torch.set_float32_matmul_precision("medium")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[arguments.shape], tie_word_embeddings=True))
    ids = torch.randint(5, 500, (arguments.batch_size, arguments.tokens))
    if lever != "off":
        tbt_compile.prepare(model, arguments.recipe)
        tbt_compile.set_scales(model, ids[:1, :16])
    model.train()
    if lever in ("checkpointing", "together"):
        model.gradient_checkpointing_enable()
    optimizer = make_optimizer(lever, model.parameters())

    def context() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if lever in ("bf16", "together") else nullcontext()

    Path("/proc/self/clear_refs").write_text("5")  # the peak of the steps, not of the preparation
    seconds = []
    for _ in range(arguments.steps + 1):
        start = time.process_time()
        with context():
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "mib": memory("VmHWM"),
        "loss": float(loss.detach()),
    }


def measure(lever: str, arguments: list[str]) -> dict[str, Any]:
    """Run one row in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--levers", lever, "--once"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{lever} cannot be measured:\n{done.stderr}")
    return {"lever": lever, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="135m", help="of the model")
    parser.add_argument("--recipe", default="2-2-2", help="of the quantizers")
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS), help="the rows")
    parser.add_argument("--batch-size", type=int, default=4, help="texts per step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a text")
    parser.add_argument("--steps", type=int, default=2, help="timed steps, after one that is not")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(work(arguments)))
        return
    names = ("shape", "recipe", "batch-size", "tokens", "steps", "threads")
    options = [f"--{name}={getattr(arguments, name.replace('-', '_'))}" for name in names]
    rows = []
    print(f"{'':14} {'s/step':>8} {'MiB':>8}")
    for lever in arguments.levers:
        rows.append(measure(lever, options))
        print(f"{lever:14} {rows[-1]['seconds']:8.2f} {rows[-1]['mib']:8.0f}  {LEVERS[lever]}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({**vars(arguments), "json": None, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
