"""One hash of all logits: every instruction set, PyTorch, in batches and alone, with 1 and 2 threads.

    python examples/benchmarks/hashes.py                # compare with the recorded hashes
    python examples/benchmarks/hashes.py --record       # after a change of docs/numerics.md

Models of 24 layers get weights, scales and tokens from integers, so that every machine starts from the same
bits. Each is compiled for the CPUs that this machine can run and, where `make arm` has built it, for the
emulated AArch64 machine, and reads the same prompts everywhere. A hash covers the logits of all prompts after
every token. The exit status is 1 if any two differ, or differ from `hashes.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tbt_compile
from tbt_compile.codegen.target.host import host_target, missing_features
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.freezing import FrozenModel
from tbt_compile.quantizers import ActivationQuantizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
RECORDED = Path(__file__).with_name("hashes.json")
RECIPES = ("8-8-8", "2-2-8", "1-1-8", "2-2-2", "1-1-1")
FAMILIES = ("llama", "bart")
X86 = ("x86-64", "haswell", "skylake-avx512", "icelake-server")
ARM = {"cortex-a72": "cortex-a72", "neoverse-v1": "max"}
LAYERS, WIDTH, VOCABULARY, PAD, START = 24, 64, 200, 1, 2
PROMPTS, LONGEST, TOKENS = 8, 21, 12
Array = np.ndarray[Any, Any]
Logits = Callable[[Array, Array, Array], Array]
"""From ids, mask and decoder tokens [B, T] to logits [T, B, V]; a decoder-only model reads the ids first."""
Report = Callable[[str, str, Callable[[], dict[str, str]]], None]


def new_model(family: str, layers: int) -> nn.Module:
    """A model whose weights are multiples of 2^-10; half of its layers are an encoder's, if it has one."""
    import transformers

    tokens = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": START, "bos_token_id": 0}
    if family == "llama":
        model: nn.Module = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **tokens, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=layers,
                num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
            )
        )  # fmt: skip
    else:
        model = transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                **tokens, d_model=WIDTH, encoder_layers=layers // 2, decoder_layers=layers // 2,
                encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=2 * WIDTH,
                decoder_ffn_dim=2 * WIDTH, max_position_embeddings=128, decoder_start_token_id=START,
            )
        )  # fmt: skip
    generator = np.random.default_rng(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            whole = generator.integers(-127, 128, parameter.shape)
            start = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            factor = 8 if "embed" in name else 1
            parameter.copy_(torch.from_numpy(whole * (factor / 1024) + start))
    return model.eval()


def frozen_model(family: str, recipe: str, layers: int) -> FrozenModel:
    """A frozen model whose activation scales are powers of two."""
    prepared = tbt_compile.prepare(new_model(family, layers), recipe)
    for module in prepared.modules():
        if isinstance(module, ActivationQuantizer) and module.learned:
            module.set_scale(0.5 if module.encoding.signed else 0.0625)
    return tbt_compile.freeze(prepared)


def inputs(decoder_only: bool) -> tuple[Array, Array, Array]:
    """Padded ids and mask [B, S], and decoder tokens [B, T]."""
    generator = np.random.default_rng(2)
    ids, mask = np.full((PROMPTS, LONGEST), PAD), np.zeros((PROMPTS, LONGEST), np.int64)
    for row, length in enumerate(generator.integers(1, LONGEST + 1, PROMPTS)):
        place = slice(LONGEST - length, None) if decoder_only else slice(0, length)
        ids[row, place], mask[row, place] = generator.integers(3, VOCABULARY, length), 1
    return ids, mask, generator.integers(3, VOCABULARY, (PROMPTS, TOKENS))


def eager(frozen: FrozenModel) -> Logits:
    """The logits of PyTorch."""

    def logits(ids: Array, mask: Array, decoder: Array) -> Array:
        source, seen = torch.from_numpy(ids), torch.from_numpy(mask)
        columns = list(torch.from_numpy(decoder).split(1, 1))
        found = []
        if frozen.module.config.is_encoder_decoder:  # type: ignore[union-attr]
            out = frozen(input_ids=source, attention_mask=seen, decoder_input_ids=columns[0])
            found.append(out.logits)
            encoded = (out.encoder_last_hidden_state,)
            for column in columns[1:]:
                given: dict[str, Any] = {"encoder_outputs": encoded, "past_key_values": out.past_key_values}
                out = frozen(attention_mask=seen, decoder_input_ids=column, **given)
                found.append(out.logits)
        else:
            past = None
            for tokens in (source, *columns):
                seen = seen if past is None else torch.cat([seen, torch.ones_like(tokens)], 1)
                positions = (seen.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
                given = {"past_key_values": past, "position_ids": positions}
                out = frozen(input_ids=tokens, attention_mask=seen, use_cache=True, **given)
                past = out.past_key_values
                found.append(out.logits)
        return np.stack([step[:, -1].numpy() for step in found])

    return logits


def compiled(folder: Path, threads: int) -> Logits:
    """The logits of a compiled folder on this machine."""
    model = tbt_compile.load(folder, num_threads=threads)

    def logits(ids: Array, mask: Array, decoder: Array) -> Array:
        session = model.session(ids, mask)
        tokens = [] if model.is_encoder_decoder else [ids]
        tokens += [np.ascontiguousarray(column) for column in decoder.T[:, :, None]]
        return np.stack([session.step(each).copy() for each in tokens])

    return logits


def hashes(logits: Logits, decoder_only: bool) -> dict[str, str]:
    """The hash of the logits of one batch, and of the prompts one by one, without padding."""
    ids, mask, decoder = inputs(decoder_only)
    alone = []
    for row in range(PROMPTS):
        kept = mask[row] == 1
        alone.append(logits(ids[row : row + 1, kept], mask[row : row + 1, kept], decoder[row : row + 1]))
    return {
        f"batch of {PROMPTS}": _digest(logits(ids, mask, decoder)),
        "alone": _digest(np.concatenate(alone, 1)),
    }


def _digest(logits: Array) -> str:
    assert logits.dtype == np.float32 and np.isfinite(logits).all()
    assert np.ptp(logits, axis=(0, 1)).mean() > 0.01, "the hash of constants would prove nothing"
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()[:16]


@contextmanager
def emulated(cpu: str) -> Iterator[Callable[[Path], Logits] | None]:
    """An AArch64 machine that computes the logits of folders; None if there is none."""
    from arm.environment import find
    from arm.machine import Machine

    environment = find()
    if environment is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(environment, cpu, Path(folder))
        yield lambda model: lambda ids, mask, decoder: machine.logits(model, ids, mask, decoder)
        machine.close()


def run(family: str, recipe: str, arguments: argparse.Namespace, report: Report) -> None:
    """Hash one model everywhere, and report each hash."""
    from once import only

    frozen, decoder_only = frozen_model(family, recipe, arguments.layers), family == "llama"
    report("PyTorch", "", lambda: hashes(eager(frozen), decoder_only))
    here = dict.fromkeys([host_target().mcpu, *X86] if host_target().arch == "x86_64" else [])
    able: dict[Any, str] = {}  # one CPU of each schedule
    for cpu in here:
        if not missing_features(parse_target(cpu)):
            able.setdefault(parse_target(cpu).isa.schedule, cpu)
    model = tbt_compile.lower(frozen, [*able.values(), *(ARM if arguments.arm else ())])
    with tempfile.TemporaryDirectory() as work:
        folders = {build.target.mcpu: Path(work) / build.target.mcpu for build in model._builds}
        for cpu, folder in folders.items():
            only(model, cpu).save(folder)
        for cpu in here:
            same = able.get(parse_target(cpu).isa.schedule)
            if same != cpu:
                report(cpu, f"as {same}" if same else "skipped: this machine has not its instructions", dict)
                continue
            for threads in (1, 2):
                report(
                    cpu, f"{threads} threads", partial(_compiled_hashes, folders[cpu], threads, decoder_only)
                )
        for cpu, emulator in ARM.items() if arguments.arm else ():
            with emulated(emulator) as machine:
                if machine is None:
                    report(cpu, "skipped: `make arm` builds the machine", dict)
                else:
                    report(cpu, "emulated", partial(hashes, machine(folders[cpu]), decoder_only))


def _compiled_hashes(folder: Path, threads: int, decoder_only: bool) -> dict[str, str]:
    return hashes(compiled(folder, threads), decoder_only)


def main() -> None:
    """Hash every model, print a table, and compare or record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of a model")
    parser.add_argument("--no-arm", dest="arm", action="store_false", help="leave out the emulated machine")
    parser.add_argument("--record", action="store_true", help="write hashes.json")
    parser.add_argument("--json", type=Path, help="write all hashes and times to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # its threads wait actively, also beside other work
    known: dict[str, str] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    rows, failed = [], False
    print("| model | engine | | batch | hash | s |\n| --- | --- | --- | --- | --- | ---: |")
    for family, recipe in itertools.product(arguments.families.split(","), arguments.recipes.split(",")):
        name, found = f"{family} {recipe}, {arguments.layers} layers", set[str]()

        def report(engine: str, how: str, compute: Callable[[], dict[str, str]], name: str = name) -> None:
            start = time.time()
            digests = compute()
            seconds = time.time() - start
            for batch, digest in digests.items() or [("", "")]:
                rows.append({"model": name, "engine": engine, "how": how, "batch": batch, "hash": digest})
                print(f"| {name} | {engine} | {how} | {batch} | {digest} | {seconds:.1f} |", flush=True)
            found.update(digests.values())  # noqa: B023

        run(family, recipe, arguments, report)
        if arguments.record and len(found) == 1:
            known[name] = next(iter(found))
        failed |= found != {known.get(name)}
    if arguments.record and not failed:
        RECORDED.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print(
        "\nDIFFERENT" if failed else "\nall equal" + (", recorded" if arguments.record else ", as recorded")
    )
    sys.exit(failed)


if __name__ == "__main__":
    main()
