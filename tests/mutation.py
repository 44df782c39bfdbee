"""Mutation testing: changes one operator, number or comparison at a time, and runs the tests of the file.

    python tests/mutation.py --sample 40 --record build/mutation.json

The mutants are cosmic-ray's. A mutant runs in a fork of this process, which imports the changed text in place
of the file: no file is written, and PyTorch is imported once for all. What became of a mutant is written to
the record at once, so that a run that was stopped goes on; a change of the file or its tests begins it again.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from equivalent_mutants import EQUIVALENT

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = ("torch", "numpy", "pytest", "hypothesis", "transformers", "tvm")
QUANTIZERS, FORMULAS = "tbt_compile/quantizers", "codegen/kernels/dot"
TESTS = {
    f"{QUANTIZERS}/activations.py": ["tests/quantizers/test_activations.py"],
    f"{QUANTIZERS}/choose.py": ["tests/quantizers/test_choose.py"],
    f"{QUANTIZERS}/first_batch.py": ["tests/quantizers/test_first_batch.py"],
    f"{QUANTIZERS}/ops.py": ["tests/quantizers/test_ops.py"],
    f"{QUANTIZERS}/pruned.py": ["tests/quantizers/test_pruned.py"],
    f"{QUANTIZERS}/scaled.py": ["tests/quantizers/test_scaled.py"],
    f"{QUANTIZERS}/split.py": ["tests/quantizers/test_split.py"],
    f"{QUANTIZERS}/state.py": ["tests/quantizers/test_state.py", "tests/quantizers/test_activations.py"],
    f"{QUANTIZERS}/weights.py": ["tests/quantizers/test_weights.py"],
    "codegen/layouts.py": ["tests/codegen/test_layouts.py"],
    f"{FORMULAS}/bit_product.py": ["tests/codegen/kernels/test_bit_product.py"],
    f"{FORMULAS}/carry_save.py": ["tests/codegen/kernels/test_bit_product.py"],
    "tbt_compile/encoding.py": ["tests/test_encoding.py"],
}
"""The files that are changed, and the tests of each, the quickest to fail first."""
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"


@dataclass(frozen=True)
class Mutant:
    """A change of a file.

    Attributes:
        line: number of the changed line, from 1.
        before: the line, with single spaces.
        after: the changed line.
        text: the whole changed file.
    """

    line: int
    before: str
    after: str
    text: str

    @property
    def change(self) -> str:
        """What the list of equivalent mutants and the record call it."""
        return f"{self.before} -> {self.after}"


def places(source: str) -> list[tuple[str, int]]:
    """Every operator of cosmic-ray with the number of each place that it changes, but for annotations."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    spans = [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        for parent in ast.walk(ast.parse(source))
        for node in (getattr(parent, "annotation", None), getattr(parent, "returns", None))
        if node is not None
    ]
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name in operator_names():
        if name.rpartition("/")[2] in ("StringReplacer", "NoOp"):
            continue
        try:
            operator = get_operator(name)()
        except TypeError:  # one with arguments of its own
            continue
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for number, (start, _) in enumerate(positions):
            if not any(first <= start < last for first, last in spans):
                found.append((name, number))
    return found


def mutant(source: str, name: str, number: int) -> Mutant | None:
    """The change of one place, or None if it changes nothing or is no Python.

    Args:
        source: the file.
        name: of the operator.
        number: of the place.
    """
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = mutate_code(source, get_operator(name)(), number)
    try:
        tree = ast.parse(text or source)
    except SyntaxError:
        return None
    # cosmic-ray takes the `*` before keyword-only parameters for a product, and makes it a `/`.
    if ast.dump(tree) == ast.dump(ast.parse(source)) or any(
        isinstance(node, ast.arguments) and node.posonlyargs for node in ast.walk(tree)
    ):
        return None
    old, new = source.splitlines(), text.splitlines()
    changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    _, first, last, start, end = next(change for change in changes if change[0] != "equal")
    before, after = (" ".join(" ".join(lines).split()) for lines in (old[first:last], new[start:end]))
    return Mutant(first + 1, before, after or "(removed)", text)


class Replaced(SourceFileLoader, importlib.abc.MetaPathFinder):
    """Imports a text in place of a module's file."""

    def __init__(self, module: str, path: Path, text: str) -> None:
        super().__init__(module, str(path))
        self.code = compile(text, str(path), "exec")

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        return self.code


def outcome(file: str, text: str, seconds: float) -> str:
    """Run the tests of a file with a changed text in a fork.

    Args:
        file: path from the root.
        text: in place of the file's.
        seconds: of CPU time after which the fork is stopped.

    Returns:
        What became of the mutant.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # Both end the process; a busy or suspended machine does not count against the first.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, 30 * seconds)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            module = ".".join(Path("tbt_compile", file.removeprefix("tbt_compile/")).with_suffix("").parts)
            sys.meta_path.insert(0, Replaced(module, ROOT / file, text))
            import pytest

            # Plugins cannot be rewritten any more; they are not what is tested.
            quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
            code = int(pytest.main(["-x", *quiet, *TESTS[file]]))
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return TIMEOUT if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM) else KILLED
    return SURVIVED if os.WEXITSTATUS(status) == 0 else KILLED


@cache
def fingerprint(file: str) -> str:
    """A hash of a file and its tests."""
    return hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in (file, *TESTS[file]))).hexdigest()


def tested(file: str, sample: int, record: dict[str, Any]) -> Iterator[tuple[Mutant, str]]:
    """The sampled mutants of a file and what became of each, from the record where it is there.

    Args:
        file: path from the root.
        sample: how many places to change; 0: all.
        record: what is known, by file; changed.
    """
    source = (ROOT / file).read_text(encoding="utf-8")
    known = record.get(file, {})
    if known.get("fingerprint") != fingerprint(file):
        known = record[file] = {"fingerprint": fingerprint(file), "outcomes": {}}
    all_places = places(source)
    known["places"] = len(all_places)
    # A larger sample holds a smaller one, so that more can be asked for later.
    chosen = random.Random(file).sample(all_places, len(all_places))[: sample or None]
    seconds = None
    for name, number in chosen:
        made = mutant(source, name, number)
        if made is None:
            continue
        key = f"{name} {number}"
        if key not in known["outcomes"]:
            if seconds is None:
                start = os.times().children_user
                if outcome(file, source, 600) != SURVIVED:
                    sys.exit(f"{' '.join(TESTS[file])}: fails without a change")
                seconds = 10 + 5 * (os.times().children_user - start)
            known["outcomes"][key] = outcome(file, made.text, seconds)
        yield made, known["outcomes"][key]


def main() -> int:
    """Test, print the score and the survivors; 1 if there are any that are not known to be equivalent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=list(TESTS), help="to change (default: all)")
    parser.add_argument("--sample", type=int, default=40, help="changes of each file; 0: all")
    parser.add_argument("--record", type=Path, default=ROOT / "build" / "mutation.json")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    record = json.loads(arguments.record.read_text()) if arguments.record.exists() else {}
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    total, killed, survivors = 0, 0, []
    print(f"{'places':>6} {'tested':>6} {'equal':>6} {'killed':>6}", flush=True)
    for file in arguments.files:
        counts = {KILLED: 0, TIMEOUT: 0, SURVIVED: 0, "equivalent": 0}
        for made, result in tested(file, arguments.sample, record):
            arguments.record.write_text(json.dumps(record, indent=1))
            if result == SURVIVED and made.change in EQUIVALENT.get(file, {}):
                result = "equivalent"
            elif result == SURVIVED:
                survivors.append(f"{file}:{made.line}: {made.change}")
            counts[result] += 1
        ended, count = counts[KILLED] + counts[TIMEOUT], sum(counts.values()) - counts["equivalent"]
        row = record[file]["places"], count, counts["equivalent"], ended
        print(" ".join(f"{value:6}" for value in row), file, flush=True)
        total, killed = total + count, killed + ended
    print(f"score {killed} of {total}: {100 * killed / max(1, total):.1f}%")
    print(*survivors, sep="\n")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
