"""Token agreement of compiled models with PyTorch, for every model family and recipe.

    python examples/benchmarks/agreement.py --json agreement.json
    python examples/benchmarks/agreement.py --steps 400 --json trained.json
    python examples/benchmarks/agreement.py --families t5,llama --recipes 2-2-8 --sentences 50

Models are small and made from configs. By default their weights are random with a large deviation, which
makes outputs differ between sentences (the column *outputs* counts distinct ones). With --steps they are
trained for this many steps in full precision and as many quantized; see `agreement_models`.

*greedy* and *beam 4* are the share of sentences on which the frozen model in PyTorch and the compiled model
generate the same tokens; PyTorch runs padded batches, the compiled model one sentence at a time with one
thread. *prepared* compares the compiled model to the prepared model in evaluation mode, greedily: that has
the float arithmetic of PyTorch, whose last bits depend on the machine and the batch. The other columns
compare the compiled model to itself, greedy and beam search together: in batches, in batches with extra
padding, and with two threads. With the same --json file, an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from agreement_models import (
    EOS,
    FAMILIES,
    PAD,
    Sentences,
    chain_sentences,
    new_model,
    random_sentences,
    train,
)

NEW_TOKENS, BATCH, MORE_PADDING = 16, 25, 7
RECIPES = ("1-1-1", "2-2-2", "2-2-8", "1-1-8")
BEAMS = {"greedy": 1, "beam 4": 4}
PREPARED = "prepared"
Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Case:
    """A quantized model, its compiled folder, and their input.

    Attributes:
        prepared: the model that was trained, in evaluation mode.
        frozen: the same with packed weights.
        folder: of the compiled model.
        sentences: token ids without padding.
    """

    prepared: Any
    frozen: Any
    folder: Path
    sentences: Sentences

    @property
    def decoder_only(self) -> bool:
        """Whether the model is decoder-only, so that outputs begin with the prompt."""
        return not self.prepared.config.is_encoder_decoder

    def padded(self, rows: Sentences, more: int = 0) -> tuple[Ids, Ids]:
        """Ids and mask [B, S] with `more` columns of extra padding; prompts are padded on the left."""
        width = max(map(len, rows)) + more
        ids, mask = np.full((len(rows), width), PAD), np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            place = slice(width - len(row), None) if self.decoder_only else slice(0, len(row))
            ids[number, place], mask[number, place] = row, 1
        return ids, mask

    def batches(self) -> list[Sentences]:
        """The sentences in batches, in the given order."""
        return [self.sentences[start : start + BATCH] for start in range(0, len(self.sentences), BATCH)]

    def new_tokens(self, output: Sequence[int], prompt: int) -> list[int]:
        """The generated tokens, without prompt or start token and up to the end token."""
        from tbt_compile.runtime.batching import cut_after_end

        return cut_after_end(list(output[prompt if self.decoder_only else 1 :]), [EOS], first=0)


def make_case(family: str, recipe: str, sentences: Sentences, folder: Path, steps: int) -> Case:
    """Make a model, prepare and compile it.

    Args:
        family: a name in `FAMILIES`.
        recipe: E-W-A notation.
        sentences: input; the first batch initializes the activation scales.
        folder: for the compiled model.
        steps: of training, in full precision and again quantized; 0 for random weights.
    """
    import torch

    import tbt_compile

    model = new_model(family, random_weights=not steps)
    if steps:
        train(model, steps, NEW_TOKENS)
    if steps and model.config.is_encoder_decoder:
        sentences = [row[::-1] for row in sentences]
    prepared = tbt_compile.prepare(model, recipe)
    ids, mask = map(torch.tensor, Case(prepared, None, folder, sentences).padded(sentences[:BATCH]))
    prepared.train()
    with torch.no_grad():
        prepared(input_ids=ids, attention_mask=mask, labels=ids)
    if steps:
        print(f"{family} {recipe}: loss {train(prepared, steps, NEW_TOKENS):.2f}", file=sys.stderr)
    frozen = tbt_compile.freeze(prepared.eval())
    tbt_compile.lower(frozen).save(folder)
    return Case(prepared, frozen, folder, sentences)


def eager_tokens(case: Case, model: Any, beams: int) -> Sentences:
    """The output of `generate` of `transformers` with the prepared or the frozen model, batch by batch."""
    import torch

    written = []
    for rows in case.batches():
        ids, mask = case.padded(rows)
        with torch.no_grad():
            output = model.generate(
                torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                do_sample=False,
                num_beams=beams,
                max_new_tokens=NEW_TOKENS,
            )
        written += [case.new_tokens(row, ids.shape[1]) for row in output.tolist()]
    return written


def one_by_one(case: Case, model: Any, beams: int) -> Sentences:
    """The output of the compiled model, one sentence at a time."""
    settings = {"num_beams": beams, "max_new_tokens": NEW_TOKENS}
    outputs = [model.generate([row], **settings)[0] for row in case.sentences]
    return [
        case.new_tokens(output.tolist(), len(row))
        for output, row in zip(outputs, case.sentences, strict=True)
    ]


def batched(case: Case, model: Any, beams: int) -> Sentences:
    """The output of the compiled model, in batches that it forms itself."""
    outputs = model.generate_many(case.sentences, num_beams=beams, max_new_tokens=NEW_TOKENS)
    return [
        case.new_tokens(output.tolist(), len(row))
        for output, row in zip(outputs, case.sentences, strict=True)
    ]


def padded(case: Case, model: Any, beams: int) -> Sentences:
    """The output of the compiled model, in batches in the given order with extra padding."""
    written = []
    for rows in case.batches():
        ids, mask = case.padded(rows, MORE_PADDING)
        output = model.generate(ids, mask, num_beams=beams, max_new_tokens=NEW_TOKENS)
        written += [case.new_tokens(row, ids.shape[1]) for row in output.tolist()]
    return written


# Ways to run the compiled model, compared to one sentence at a time with one thread: (function, threads).
WAYS: dict[str, tuple[Callable[[Case, Any, int], Sentences], int]] = {
    "batched": (batched, 1),
    "padded": (padded, 1),
    "2 threads": (one_by_one, 2),
    "padded, 2 threads": (padded, 2),
}


def measure(case: Case) -> dict[str, Any]:
    """The agreement of all columns, from 0 to 1, and the variety of the outputs."""
    import tbt_compile
    from tbt_compile.evaluation import token_agreement

    models = {threads: tbt_compile.load(case.folder, num_threads=threads) for threads in (1, 2)}
    figures: dict[str, Any] = {}
    same_ways: dict[str, list[float]] = {way: [] for way in WAYS}
    for name, beams in BEAMS.items():
        expected = eager_tokens(case, case.frozen, beams)
        own = one_by_one(case, models[1], beams)
        figures[name] = token_agreement(expected, own)
        pairs = enumerate(zip(expected, own, strict=True))
        figures[f"{name} different"] = [number for number, (a, b) in pairs if a != b]
        for way, (run, threads) in WAYS.items():
            same_ways[way].append(token_agreement(own, run(case, models[threads], beams)))
        if beams == 1:
            figures[PREPARED] = token_agreement(eager_tokens(case, case.prepared, beams), own)
            figures["outputs"] = len({tuple(row) for row in own})
            figures["mean_new_tokens"] = float(np.mean([len(row) for row in own]))
    return figures | {way: float(np.mean(shares)) for way, shares in same_ways.items()}


def show(rows: list[dict[str, Any]], sentences: int) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"same tokens, share of {sentences} sentences")
    table.add_column("family")
    table.add_column("recipe", no_wrap=True)
    for heading in (*BEAMS, PREPARED, *WAYS, "outputs"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = (f"{row[name]:.1%}" for name in (*BEAMS, PREPARED, *WAYS))
        table.add_row(row["family"], row["recipe"], *shares, str(row["outputs"]))
    Console().print(table)


def main() -> None:
    """Measure the cases that the file does not hold yet, and print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--sentences", type=int, default=200, help="number of inputs")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0: random weights")
    parser.add_argument("--seed", type=int, default=0, help="of the sentences")
    parser.add_argument("--json", type=Path, help="write the figures to this file, and resume from it")
    options = parser.parse_args()
    families, recipes = options.families.split(","), options.recipes.split(",")
    if unknown := set(families) - set(FAMILIES):
        parser.error(f"unknown families {', '.join(sorted(unknown))}; known are {', '.join(FAMILIES)}")
    settings = {"sentences": options.sentences, "seed": options.seed, "steps": options.steps}
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        earlier = json.loads(options.json.read_text())
        if earlier["settings"] != settings:
            parser.error(f"{options.json} was measured with {earlier['settings']}: name another file")
        rows = earlier["rows"]
    done = {(row["family"], row["recipe"]) for row in rows}
    sentences = (chain_sentences if options.steps else random_sentences)(options.sentences, options.seed)
    for family, recipe in ((family, recipe) for family in families for recipe in recipes):
        if (family, recipe) in done:
            continue
        print(f"{family} {recipe}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            case = make_case(family, recipe, sentences, Path(folder) / "compiled", options.steps)
            rows.append({"family": family, "recipe": recipe, **measure(case)})
        if options.json is not None:
            part = options.json.with_name(f".{options.json.name}.part")
            part.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
            part.replace(options.json)
    show(rows, options.sentences)


if __name__ == "__main__":
    main()
