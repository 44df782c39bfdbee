"""Instructions per generated token on AArch64, by recipe, against full precision.

    make arm
    python examples/benchmarks/instructions.py --cpu cortex-a72 --json out.json

A BART with random weights is compiled for the CPU at every recipe, including full precision (32-32-32). It
generates under QEMU with a plugin that counts every instruction, Python included. Instructions per token are
the difference between a long and a short output, divided by the difference in tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOAT = "32-32-32"
SHORT, LONG = 4, 68
# Declares the part of QEMU's plugin API (version 1) that it uses, as no package has `qemu-plugin.h`.
PLUGIN = """
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
typedef uint64_t Id;
typedef struct qemu_plugin_tb Block;
void qemu_plugin_register_vcpu_tb_trans_cb(Id id, void (*translated)(Id, Block *));
void qemu_plugin_register_vcpu_tb_exec_inline(Block *block, int add, void *sum, uint64_t value);
void qemu_plugin_register_atexit_cb(Id id, void (*ended)(Id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const Block *block);
void qemu_plugin_outs(const char *text);
int qemu_plugin_version = 1;
static uint64_t executed;
static void translated(Id id, Block *block) {
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &executed, qemu_plugin_tb_n_insns(block));
}
static void ended(Id id, void *data) {
    char text[64];
    snprintf(text, sizeof text, "executed %" PRIu64 "\\n", executed);
    qemu_plugin_outs(text);
}
int qemu_plugin_install(Id id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
"""
GENERATE = """
import sys
import numpy as np
import tbt_compile
folder, source, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ids = 4 + np.arange(source)[None]
tokens = tbt_compile.load(folder, num_threads=1).generate(ids, min_new_tokens=count, max_new_tokens=count)
assert tokens.shape == (1, 1 + count), tokens.shape
"""


def build_plugin(folder: Path) -> Path:
    """Build the plugin as a shared library for this machine."""
    source, library = folder / "count.c", folder / "count.so"
    source.write_text(PLUGIN)
    caches = {f"ZIG_{name}_CACHE_DIR": str(folder) for name in ("GLOBAL", "LOCAL")}
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.31", "-O2", "-shared"]
    subprocess.run([*command, "-fPIC", "-o", library, source], check=True, env={**os.environ, **caches})
    return library


def compiled(recipe: str, folder: Path, arguments: argparse.Namespace) -> Path:
    """Compile a random model; its encoder, which runs once per text, has a single layer.

    Args:
        recipe: E-W-A notation.
        folder: to write a subfolder to.
        arguments: shape of the model and the CPU, from the command line.

    Returns:
        The compiled folder.
    """
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    import tbt_compile

    width = arguments.width
    config = BartConfig(
        vocab_size=arguments.vocabulary, d_model=width, encoder_layers=1, decoder_layers=arguments.layers,
        encoder_attention_heads=width // 64, decoder_attention_heads=width // 64, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_position_embeddings=128, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(1)
    model = tbt_compile.prepare(BartForConditionalGeneration(config), recipe)
    ids = 4 + torch.arange(arguments.source)[None]
    with torch.no_grad():
        model(input_ids=ids, decoder_input_ids=ids)
    return tbt_compile.lower(model.eval(), arguments.cpu).save(folder / recipe)


class Counter:
    """Counts the instructions of a program on an emulated CPU."""

    def __init__(self, cpu: str, work: Path) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        from arm.environment import find
        from arm.machine import variables

        environment = find()
        if environment is None or environment.tools is None or environment.root is None:
            sys.exit("there is no emulated AArch64 machine: `make arm` builds it, on Linux on x86-64")
        self.log = work / "log.txt"
        plugin = ["-plugin", str(build_plugin(work)), "-d", "plugin", "-D", str(self.log)]
        machine = ["-cpu", cpu, "-L", str(environment.root), str(environment.python)]
        self.command = [*environment.tool("qemu-aarch64"), *plugin, *machine]
        self.variables = {**os.environ, **variables(environment, work), "PYTHONHASHSEED": "0"}

    def count(self, code: str, *arguments: object) -> int:
        """Instructions that a Python program executes, from start to exit."""
        command = [*self.command, "-c", code, *map(str, arguments)]
        subprocess.run(command, check=True, env=self.variables, cwd=self.log.parent)
        match = re.search(r"executed (\d+)", self.log.read_text())
        if match is None:
            sys.exit("QEMU has counted no instructions: was it built with plugin support?")
        return int(match[1])


def main() -> None:
    """Count, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", default="cortex-a72", help="CPU to compile for, by LLVM's name")
    parser.add_argument("--emulated", default="cortex-a72", help="CPU to emulate, by QEMU's name")
    parser.add_argument("--recipes", default="1-1-1,2-2-2,2-2-8", help="comma-separated")
    parser.add_argument("--width", type=int, default=768, help="of the model")
    parser.add_argument("--layers", type=int, default=6, help="of the decoder")
    parser.add_argument("--vocabulary", type=int, default=50265, help="tokens")
    parser.add_argument("--source", type=int, default=32, help="tokens of the source text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    counts = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        counter = Counter(arguments.emulated, work)
        for recipe in (FLOAT, *arguments.recipes.split(",")):
            folder = compiled(recipe, work, arguments)
            few, many = (counter.count(GENERATE, folder, arguments.source, n) for n in (SHORT, LONG))
            counts[recipe] = (many - few) / (LONG - SHORT)
            print(f"{recipe}: {counts[recipe]:,.0f} instructions", file=sys.stderr, flush=True)
    print(f"{arguments.cpu}: width {arguments.width}, {arguments.layers} decoder layers, vocabulary "
          f"{arguments.vocabulary}, {arguments.source} source tokens\n")  # fmt: skip
    print("| recipe | million instructions per token | reduction against full precision |")
    print("| --- | ---: | ---: |")
    for recipe, count in counts.items():
        print(f"| {recipe} | {count / 1e6:.2f} | {counts[FLOAT] / count:.1f}x |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"instructions": counts}, indent=1))


if __name__ == "__main__":
    main()
