"""`tbt evaluate`: scores of a trained, packed or compiled model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbt_compile.cli.console import JsonOption, out, progress_bar, spinner, writable, write_json
from tbt_compile.cli.scores import score_table

if TYPE_CHECKING:
    from tbt_compile.training import TrainJob


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of a model: trained, packed or compiled.")],
    data: Annotated[str, typer.Option(help="Folder with test.jsonl, a .jsonl file, or a data set's name.")],
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    limit: Annotated[
        int, typer.Option("--test-sentences", "--limit", help="Score at most this many pairs.", min=1)
    ] = 500,
    num_beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.", min=1)] = 1,
    max_source_length: Annotated[
        int | None,
        typer.Option(
            "--source-length",
            "--max-source-length",
            help="Truncate sources to this many tokens (default: the model's limit).",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.", min=1)] = 64,
    batch_size: Annotated[int, typer.Option(help="Texts per batch.", min=1)] = 32,
    workers: Annotated[int, typer.Option(help="Concurrent batches of a compiled model.", min=1)] = 1,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each worker (default: all CPUs).", min=1),
    ] = None,
    source_field: Annotated[str, typer.Option(help="Name of the source text in the data.")] = "source",
    target_field: Annotated[str, typer.Option(help="Name of the target text in the data.")] = "target",
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt of a decoder-only model, as for `tbt train`.  [default: its chat template]"
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(help="Name of plain texts in the data, for the perplexity of a decoder-only model."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Write every source, target and generated text to this file.", callback=writable),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Score a model on test examples: ROUGE-1/2/L and BLEU of the texts that it generates.

    The folder may hold a full-precision model, a trained student, a packed or a compiled model. It has to
    include the tokenizer.

    Before it is compiled, a classifier is scored by its accuracy, a speech model by its word error rate, and
    plain texts (--text-field) by their perplexity, on data as for `tbt train`.

    Examples:

        tbt evaluate trained/student-2-2-2 --data my-data

        tbt evaluate compiled --data my-data --num-beams 4 --workers 4 --json scores.json

        tbt evaluate trained/student-2-2-2 --data my-data --target-field label
    """
    from tbt_compile.cli.models import longest_source, open_model, prompt_template, tokenizer_of
    from tbt_compile.data.batches import TextLengths
    from tbt_compile.data.records import load_split
    from tbt_compile.data.text_pairs import pair_reader
    from tbt_compile.errors import DataError, FormatError
    from tbt_compile.evaluation import DecodeSettings, evaluate_model
    from tbt_compile.training import TrainJob

    with spinner(f"loading {folder}"):
        model = open_model(folder, of_any_kind=True)
        tokenizer = tokenizer_of(folder)
    if tokenizer is None:
        raise FormatError(f"{folder} has no tokenizer.json: save the model's tokenizer there too")
    source_length = max_source_length or longest_source(model)
    kind = _kind(model)
    if text_field is not None or kind in ("classifier", "features to text"):
        if texts is not None:
            raise DataError(f"--texts writes the texts of pairs, and there are none: leave {texts} out")
        job = TrainJob(
            data=data,
            output=folder,
            lengths=TextLengths(source_length, max_new_tokens),
            num_beams=num_beams,
            test_sentences=limit,
            source_field=source_field,
            target_field=target_field,
            text_field=text_field,
            template=template,
        )
        found = _score(model, kind, tokenizer, job, split)
        write_json({"folder": str(folder), "data": data, "split": split, **found}, json_path)
        if str(json_path) != "-":
            out.print(score_table(f"{found['sentences']} examples", {str(folder): found}))
        return
    pairs = load_split(data, split, pair_reader(source_field, target_field))[:limit]
    with progress_bar("evaluating") as progress:
        decode = DecodeSettings(
            source_length,
            max_new_tokens,
            num_beams,
            batch_size,
            num_workers=workers,
            num_threads=threads,
            template=prompt_template(model, template),
        )
        scores, generated = evaluate_model(model, tokenizer, pairs, decode, progress=progress)
    write_json({"folder": str(folder), "data": data, "split": split, **scores.to_dict()}, json_path)
    if texts is not None:
        rows = zip(pairs, generated.texts, strict=True)
        write_json([{**vars(pair), "generated": text} for pair, text in rows], texts)
    if str(json_path) != "-":
        _show(folder, scores)


def _kind(model: Any) -> str | None:
    """The kind of a model in PyTorch; None of a compiled one, which generates text."""
    from transformers import PreTrainedModel

    from tbt_compile.evaluation.generation import runner
    from tbt_compile.training.tasks import task_of

    inner = runner(model)
    return task_of(inner).kind if isinstance(inner, PreTrainedModel) else None


def _score(model: Any, kind: str | None, tokenizer: Any, job: TrainJob, split: str) -> dict[str, Any]:
    """The metric of a model of another kind, or of plain texts.

    Args:
        model, kind, tokenizer: what is scored.
        job: names the data and the lengths.
        split: of the data.
    """
    from tbt_compile.errors import DataError, GenerationError
    from tbt_compile.evaluation.generation import runner
    from tbt_compile.training.open_data import open_data

    if kind is None:
        raise GenerationError(
            "perplexity needs the logits of whole texts, and a compiled model has those of one step: score "
            "the model that it was compiled from"
        )
    examples = open_data(job, kind, runner(model), Path(job.output), split)
    with progress_bar("evaluating") as progress:
        scores = examples.score(model, tokenizer, progress, "evaluating")
    if not scores:
        raise DataError("texts without classes give no accuracy: name their classes (--target-field)")
    return scores


def _show(folder: Path, scores: Any) -> None:
    from rich.table import Table

    table = Table(title=f"{folder}: {scores.sentences} texts, {scores.num_beams} beam(s)")
    headings = ("ROUGE-1", "ROUGE-2", "ROUGE-L", "BLEU", "mean length", "ms per text")
    for heading in headings:
        table.add_column(heading, justify="right")
    figures = (scores.rouge1, scores.rouge2, scores.rougeL, scores.bleu, scores.mean_length)
    table.add_row(*(f"{figure:.1f}" for figure in figures), f"{1000 * scores.seconds / scores.sentences:.1f}")
    out.print(table)
