"""Cycles per multiplication of the inner loops on AArch64, by LLVM's machine-code analyzer (no board needed).

    python examples/benchmarks/mca.py
    python examples/benchmarks/mca.py --cpu neoverse-n1 --json out.json
    python examples/benchmarks/mca.py --cpu neoverse-v1 --rows 8

Linear layers are compiled for the CPU, and `llvm-mca` (from Debian's package llvm, or LLVM's releases)
estimates the cycles of their hottest inner loop with all data in the L1 cache. Outer loops that widen narrow
accumulators now and then are added in proportion. fp32 is our own loop for the same shape, with 4 x 4 vectors
of outputs in registers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from tbt_compile.bench.kernel_case import DEFAULT_OPERATORS, KernelCase
from tbt_compile.codegen.kernels.dispatch import Kernel
from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.register_tile import gemm_tile, words_before_widening
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear import lut_sums, matrix_dot
from tbt_compile.codegen.kernels.linear.linear import linear
from tbt_compile.codegen.kernels.linear.matrix_dot import matrix_tile
from tbt_compile.codegen.kernels.linear.packed_dot import packed_tile
from tbt_compile.codegen.kernels.linear.unpacked_dot import unpacked_tile
from tbt_compile.codegen.layouts import PLANES_PER_GROUP, quarter_group
from tbt_compile.codegen.library.compile import llvm_module, round_products
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tvm_api import PrimFunc, Target

N, K = 3072, 3072
ITERATIONS = 200
_NOISE = re.compile(r"\s*\.(cfi|loc|p2align|size|type|file|section)|\.Ltmp|\.Lfunc")
_BRANCH = re.compile(r"\s+(?:b\.\w+|cbn?z|tbn?z|b)\s+(?:.*?,\s*)?(\.L\w+)$")


@dataclass(frozen=True)
class Loop:
    """A loop of the assembly: lines `first` to `last`."""

    first: int
    last: int

    def holds(self, other: Loop) -> bool:
        """Whether this loop contains the other one."""
        return self != other and self.first <= other.first and other.last <= self.last


def float_linear(lanes: int) -> PrimFunc:
    """y[4, N] = x[4, K] @ w[K, N] in fp32: four rows and four vectors of columns in registers."""

    def body() -> None:
        x = emit.argument("x", (K, 4), "float32")
        w = emit.argument("w", (N // (4 * lanes), K, 4 * lanes), "float32")
        y = emit.argument("y", (4, N), "float32")
        zero = emit.constant(0.0, "float32", lanes)
        with emit.loop("block", N // (4 * lanes)) as block:
            sums = [[emit.Register("sum", "float32", lanes, zero) for _ in range(4)] for _ in range(4)]
            with emit.loop("k", K) as k:
                columns = [emit.let(emit.load(w, block, k, v * lanes, lanes=lanes)) for v in range(4)]
                for r in range(4):
                    value = emit.splat(emit.let(x[k, r]), lanes)
                    for v in range(4):
                        sums[r][v].add(value * columns[v])
            for r in range(4):
                for v in range(4):
                    emit.store(y, sums[r][v].get(), r, (block * 4 + v) * lanes, lanes=lanes)

    return emit.function("float_linear", body)


def assembly(function: PrimFunc, spec: TargetSpec) -> list[str]:
    """The instructions and labels of a compiled kernel."""
    text = llvm_module({"kernel": round_products(function)}, Target(spec.code_options)).inspect_source("asm")
    lines = (line.split("//")[0].rstrip() for line in text.splitlines())
    return [line for line in lines if line.strip() and not _NOISE.match(line)]


def find_loops(lines: list[str]) -> list[Loop]:
    """All loops: the ranges of backward branches."""
    labels = {line[:-1]: index for index, line in enumerate(lines) if line.endswith(":")}
    found = []
    for index, line in enumerate(lines):
        match = _BRANCH.match(line)
        if match and labels.get(match[1], index) < index:
            found.append(Loop(labels[match[1]], index))
    return found


def count(lines: list[str], pattern: str) -> int:
    """The number of instructions that match a pattern."""
    return sum(bool(re.match(rf"\s+({pattern})\s", line)) for line in lines)


def hottest(lines: list[str], pattern: str, each: int, unpacks: bool) -> tuple[list[str], list[str]]:
    """Find the inner loop with the most instructions of a kind.

    Args:
        lines: the assembly.
        pattern: of the instructions.
        each: instructions per step of the GEMM tile; loops of smaller tiles are left out.
        unpacks: whether to take the longest of several loops with as many, which unpacks what it multiplies,
            or the shortest.

    Returns:
        The lines of the loop, and those that the loop around it adds.
    """
    loops = find_loops(lines)
    inner = [loop for loop in loops if not any(loop.holds(other) for other in loops)]
    counts = {loop: count(lines[loop.first : loop.last + 1], pattern) for loop in inner}
    whole = [loop for loop in inner if counts[loop] and counts[loop] % each == 0]
    sign = 1 if unpacks else -1
    best = max(whole, key=lambda loop: (counts[loop], sign * (loop.last - loop.first)))
    around = [loop for loop in loops if loop.holds(best)]
    rest: list[str] = []
    if around:
        outer = min(around, key=lambda loop: loop.last - loop.first)
        if sum(outer.holds(other) for other in loops) == 1:
            rest = lines[outer.first : best.first] + lines[best.last + 1 : outer.last + 1]
    return lines[best.first : best.last + 1], rest


def cycles(lines: list[str], cpu: str) -> float:
    """Cycles per iteration of a loop body."""
    code = "\n".join(line for line in lines if not line.endswith(":"))
    command = ["llvm-mca", "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}", f"-iterations={ITERATIONS}"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
    match = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if match is None or "error:" in done.stderr:
        sys.exit(f"llvm-mca cannot analyse a loop for {cpu}: {done.stderr.strip()[-500:]}")
    return int(match[1]) / ITERATIONS


@dataclass(frozen=True)
class InnerLoop:
    """A kernel and how to recognize its inner loop.

    Attributes:
        name: of the row.
        function: the kernel.
        pattern: the instruction that multiplies or counts.
        each: instructions of this kind per step of the tile.
        macs: multiplications per step.
        run: steps between two widenings of narrow accumulators.
        unpacks: whether the loop unpacks what it multiplies, where another one does not.
    """

    name: str
    function: PrimFunc
    pattern: str
    each: int
    macs: int
    run: int
    unpacks: bool = False

    def analyse(self, spec: TargetSpec) -> dict:
        """Analyse the loop; returns one row of the table."""
        inner, rest = hottest(assembly(self.function, spec), self.pattern, self.each, self.unpacks)
        steps = count(inner, self.pattern) // self.each
        total = cycles(inner, spec.mcpu) / steps + (cycles(rest, spec.mcpu) / self.run if rest else 0.0)
        return {
            "operator": self.name,
            "instructions": count(inner, r"\S+") / steps,
            "macs": self.macs,
            "cycles": total,
            "macs_per_cycle": self.macs / total,
        }


def quantized(pair: str, rows: int, spec: TargetSpec) -> InnerLoop:
    """The linear layer of one pair of encodings, on that many rows."""
    case, isa = KernelCase(pair, rows, N, K), spec.isa
    layer = case.spec(isa)
    function, chosen = linear(layer), layer.strategy.kernel(rows)
    if chosen is Kernel.LUT_SUMS:
        macs = quarter_group(case.weight.planes) * isa.block * 8 * lut_sums.OCTETS
        return InnerLoop(pair, function, "tbl", 2 * PLANES_PER_GROUP, macs, lut_sums.STEPS_BEFORE_WIDENING)
    if chosen in (Kernel.MATRIX_DOT, Kernel.INT8_MATRIX):
        # A step is a word of every column: one instruction for 2 rows, 2 columns and 8 elements.
        tile = matrix_tile(isa, case.weight)
        each = tile.rows // 2 * tile.vectors * (64 // matrix_dot.GROUP)
        macs = tile.rows * tile.vectors * 2 * 64
        unpacks = chosen is Kernel.MATRIX_DOT and rows < matrix_dot.SHARE_FROM
        return InnerLoop(pair, function, "(us|s)mmla", each, macs, K, unpacks)
    if chosen is Kernel.PACKED_DOT:
        # A step is a word of every column, in two loops of half of its elements each.
        vectors = packed_tile(isa, case.weight).vectors
        return InnerLoop(pair, function, "[su]dot", vectors * 4, vectors * isa.word_lanes * 32, K)
    if case.activation.dynamic:
        dot = isa.dot == "dotprod"
        # A step is four elements of K: one instruction per vector, or one per half of its bytes.
        tile = unpacked_tile(isa, case.activation)
        each = tile.rows * tile.vectors * (1 if dot else 2)
        macs = tile.rows * tile.vectors * isa.float_lanes * 4
        return InnerLoop(pair, function, "[su]dot" if dot else "[su](mull|mlal)2?", each, macs, 128)
    product = bit_product(case.activation, case.weight)
    tile = gemm_tile(product, isa, isa.block // isa.word_lanes)
    terms = 1 if chosen is Kernel.CARRY_SAVE else len(product.terms)
    each = tile.vectors * (tile.rows * terms + len(product.columns))
    run = words_before_widening(product, isa)
    return InnerLoop(pair, function, "cnt", each, tile.rows * tile.vectors * isa.word_lanes * 64, run or K)


def main() -> None:
    """Analyse, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", default="cortex-a72", help="an AArch64 CPU by LLVM's name")
    parser.add_argument(
        "--rows", type=int, default=64, help="rows of activations, which decide on the kernel"
    )
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    if shutil.which("llvm-mca") is None:
        sys.exit("llvm-mca is not on the PATH; on Debian and Ubuntu: apt-get install llvm")
    spec = parse_target(arguments.cpu)
    lanes = spec.isa.float_lanes
    kernels = [InnerLoop("fp32", float_linear(lanes), "fmla", 16, 16 * lanes, K)]
    kernels += [quantized(pair, arguments.rows, spec) for pair in DEFAULT_OPERATORS]
    rows = [kernel.analyse(spec) for kernel in kernels]
    print(f"inner loops on {spec.mcpu}, {arguments.rows} x {N} x {K}\n")
    print(f"| {'operator':20s} | instructions | MACs | cycles | MACs per cycle | against fp32 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        row["against_fp32"] = row["macs_per_cycle"] / rows[0]["macs_per_cycle"]
        print(
            f"| {row['operator']:20s} | {row['instructions']:.0f} | {row['macs']:.0f} | {row['cycles']:.1f} "
            f"| {row['macs_per_cycle']:.1f} | {row['against_fp32']:.1f}x |"
        )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
