"""`tbt run`: generate text with a compiled folder, without loading PyTorch or transformers."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbt_compile.cli.console import (
    CheckOption,
    JsonOption,
    PublicKeyOption,
    err,
    out,
    progress_bar,
    spinner,
    write_json,
)
from tbt_compile.errors import FormatError, TbtError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tbt_compile.storage.checksums import Checks


def run_text(
    folder: Annotated[Path, typer.Argument(help="Folder that `tbt lower` wrote.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="Source texts (default: the lines of standard input).")
    ] = None,
    num_beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw tokens at random, as the model's generation config says.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Of samples: below 1, likely tokens more often.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many tokens; 0: all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among tokens that together are so likely.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of samples: the same seed gives the same text.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts per batch.", min=1)] = 32,
    workers: Annotated[int, typer.Option(help="Concurrent batches.", min=1)] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each worker (default: all CPUs, divided evenly).", min=1)
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print words as they are generated, one text at a time.")
    ] = False,
    input_path: Annotated[
        Path | None,
        typer.Option("--input", help="File of texts, one per line: a job in parts, which goes on if killed."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File for the output of each line of --input.")] = None,
    part_size: Annotated[int, typer.Option(help="Texts per part of a job.", min=1)] = 256,
    engine: Annotated[
        str, typer.Option(help="Where a job runs: local, or ray, a cluster with --workers processes.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, such as 10.0.0.1:6379.  [default: this machine]")
    ] = None,
    check: CheckOption = True,
    public_key: PublicKeyOption = None,
    json_path: JsonOption = None,
) -> None:
    """Generate text with a compiled model.

    Examples:

        tbt run compiled --stream "A man is riding a horse ."

        tbt run compiled --num-beams 4 --workers 4 < sentences.txt > translations.txt

        tbt run compiled --sample --temperature 0.7 --top-p 0.9 --seed 1 "Once upon a time"

        tbt run compiled --input texts.txt --output outputs.txt --workers 4
    """
    import tbt_compile
    from tbt_compile.serving.tokenizing import read_tokenizer, whole_tokenizer
    from tbt_compile.storage import model_folder
    from tbt_compile.storage.checksums import Checks

    if stream and num_beams != 1:
        raise TbtError("--stream with --num-beams: beam search may revise any word until it ends")
    if stream and str(json_path) == "-":
        raise TbtError("--stream with --json -: both write to standard output; name a file")
    options: dict[str, Any] = {"num_beams": num_beams}
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in sampling.items() if value is not None}
    if given and not sample:
        raise TbtError(f"--{next(iter(given)).replace('_', '-')} is of samples only: add --sample")
    if sample:
        options |= {"do_sample": True, **given}
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    if input_path is not None or output is not None:
        if input_path is None or output is None or text or stream or json_path is not None:
            raise TbtError("a job takes --input and --output, no text, no --stream and no --json")
        if sample and seed is None:
            raise TbtError("a job that samples takes a --seed: it has to go on with the same numbers")
        _require_compiled(folder)
        of_threads = {} if threads is None else {"num_threads": threads}
        job_options = {**options, **of_threads, "batch_size": batch_size}
        where = (engine, address, workers)
        _run_job(folder, Checks.of(check, public_key), (input_path, output), job_options, part_size, where)
        return
    lines = text if text else [line.rstrip("\n") for line in sys.stdin]
    # A blank line of standard input gives a blank line: outputs stay next to their sources.
    texts = lines if text else [line for line in lines if line.strip()]
    if not texts:
        raise TbtError("there is no text: pass one after the folder, or lines on standard input")
    for number, line in enumerate(lines, 1):
        if not line.isprintable() and any("\ud800" <= character <= "\udfff" for character in line):
            raise TbtError(f"text {number} is not UTF-8: convert it first, with iconv for instance")
    _require_compiled(folder)
    checks = Checks.of(check, public_key)
    if public_key is not None:
        model_folder.read_manifest(folder, checks=checks)  # before its tokenizer is read
    tokenizer = read_tokenizer(folder)
    with whole_tokenizer(folder):
        sources = [tokenizer.encode(text).ids for text in texts]
    empty = next((index for index, source in enumerate(sources) if not source), None)
    if empty is not None:
        which = "the text" if len(texts) == 1 else f"text {empty + 1} of {len(texts)}"
        raise TbtError(f"{which} is empty ({texts[empty]!r}): expected at least one token")
    with spinner(f"loading {folder}"):
        count = threads if stream else None
        model: Any = tbt_compile.load(folder, num_threads=count, check=check, public_key=public_key)
    if len(model.targets) > 1:
        err.print(model.label, markup=False, highlight=False, soft_wrap=True)
    start = time.perf_counter()
    if stream:
        written = [_stream(model, tokenizer, source, options) for source in sources]
    else:
        options |= {"batch_size": batch_size, "num_workers": workers, "num_threads": threads}
        with progress_bar("generating") as progress:

            def report(done: int, total: int) -> None:
                if total > batch_size:  # a single batch has no intermediate progress
                    progress("generating", done / total)

            tokens = model.generate_many(sources, progress=report, **options)
        written = [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in tokens]
    seconds = time.perf_counter() - start
    if not stream and str(json_path) != "-":
        following = iter(written)
        for line in lines:
            shown = next(following) if text or line.strip() else ""
            out.print(shown, markup=False, highlight=False, soft_wrap=True)
    results = [{"source": source, "text": line} for source, line in zip(texts, written, strict=True)]
    write_json({"cpu": model.target.mcpu, "seconds": seconds, "texts": results}, json_path)


def _require_compiled(folder: Path) -> None:
    from tbt_compile.cli.models import stage_of
    from tbt_compile.storage import model_folder

    stage = stage_of(folder)
    if stage == model_folder.MODULE:
        raise FormatError(f"{folder} holds a module that does not generate text: call it in Python")
    if stage == "float":
        raise FormatError(
            f"{folder} is in full precision: distil it with `tbt train --teacher {folder}` first, or compile "
            f"it untrained with `tbt lower {folder} --recipe 2-2-8`"
        )
    if stage != model_folder.GENERATOR:
        done = "packed" if stage == model_folder.FROZEN else "trained"
        raise FormatError(f"{folder} is {done} but not compiled; run `tbt lower {folder} --output NEW` first")


def _run_job(
    folder: Path,
    checks: Checks,
    files: tuple[Path, Path],
    options: dict[str, Any],
    part_size: int,
    where: tuple[str, str | None, int],
) -> None:
    """Write an output for each line of a file.

    Args:
        folder: compiled.
        checks: of the folder.
        files: of the texts and of the outputs.
        options: of `generate_many`.
        part_size: texts per part.
        where: the engine, the address of a cluster, and concurrent batches or processes of a cluster.
    """
    from tbt_compile.jobs.parts import Job, read_texts, run
    from tbt_compile.storage.model_folder import read_manifest

    (source, output), (engine, address, workers) = files, where
    if engine not in ("local", "ray"):
        raise TbtError(f"engine {engine!r}: expected local or ray")
    settings = {"model": read_manifest(folder, checks=checks)["checksum"], "options": options}
    job = Job(read_texts(source), output, settings, part_size)
    job.open()
    parts = job.missing()
    with progress_bar("generating") as progress:
        if engine == "local":
            from tbt_compile.jobs.writer import on_this_machine

            outputs = on_this_machine(folder, {**options, "num_workers": workers}, parts, checks)
        else:
            from tbt_compile.jobs.ray_cluster import on_ray

            outputs = on_ray(folder, options, parts, workers, address, checks)
        for done in run(job, outputs):
            progress("generating", done / len(job.texts))
    out.print(f"{len(job.texts)} outputs are in {output}", markup=False, highlight=False, soft_wrap=True)


def _stream(model: Any, tokenizer: Any, source: list[int], options: dict[str, Any]) -> str:
    """Generate for one source and print each piece of text as soon as its tokens are complete."""
    from tbt_compile.serving.text_stream import TextStream

    stream = TextStream(tokenizer)

    def show(tokens: Sequence[int] | np.ndarray) -> None:
        piece = "".join(stream.push(int(token)) for token in tokens)
        if piece:
            sys.stdout.write(piece)
            sys.stdout.flush()

    if not model.is_encoder_decoder:  # an output begins with its prompt
        show(source)

    model.generate([source], attention_mask=[[1] * len(source)], on_tokens=show, **options)
    sys.stdout.write(stream.end() + "\n")
    return stream.text
