"""`tbt lower`: compile a trained or packed model for one or several CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import JsonOption, out, spinner, warn, write_json
from tbt_compile.cli.targets import complete_target


def lower(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of a trained (`tbt train`), packed or BitNet model, or a ternary GGUF file."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    target: Annotated[
        list[str],
        typer.Option(
            help="'host', a CPU name (see `tbt targets`), or 'llvm -mcpu=NAME'; repeatable.",
            autocompletion=complete_target,
        ),
    ] = ["host"],  # noqa: B006 (typer wants a list and does not change it)
    recipe: Annotated[
        str | None, typer.Option(help="Quantize a full-precision model first, without training.")
    ] = None,
    shortlist: Annotated[
        Path | None,
        typer.Option(help="File with one text per line; limits the output vocabulary to their tokens."),
    ] = None,
    embedding_bits: Annotated[
        int | None,
        typer.Option(help="8: quantize the embeddings and output projection of a BitNet or GGUF model."),
    ] = None,
    activation_bits: Annotated[
        int | None,
        typer.Option(help="8: quantize activations where a checkpoint has ternary weights only; faster."),
    ] = None,
    attention_bits: Annotated[
        int | None,
        typer.Option(help="8: quantize the attention of a BitNet or GGUF model; a quarter of the cache."),
    ] = None,
    clock: Annotated[
        bool, typer.Option("--clock", help="Time every kernel, for the times by layer in `tbt report`.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Compile a model for this machine's CPU, another one, or several.

    No C compiler is needed, even for other machines. The output folder runs with `tbt run`, or with
    `tbt_compile.load` in Python, without PyTorch. With several targets it holds a library for each, and
    loading it chooses the one that uses most of the machine's instructions.

    Examples:

        tbt lower trained --output compiled

        tbt lower trained --target cortex-a72 --output for-raspberry-pi-4

        tbt lower trained --shortlist summaries.txt --output compiled

        tbt lower trained --target cortex-a72 --target cortex-a76 --output for-raspberry-pis

        tbt lower bitnet-b1.58-2B-4T --embedding-bits 8 --attention-bits 8 --output compiled

        tbt lower trained --target apple-m1 --target "haswell windows" --output for-laptops
    """
    import time

    from tbt_compile.cli.models import (
        dynamic_lengths,
        open_for_lowering,
        processor_of,
        tokenizer_of,
        tokens_of,
    )
    from tbt_compile.codegen.target.parse import parse_targets
    from tbt_compile.errors import LoweringError
    from tbt_compile.storage import model_folder

    specs = parse_targets(target)
    if output.resolve() == source.resolve():
        raise LoweringError(
            f"--output {output} is the folder of the model to compile, which would be lost: name another one"
        )
    model_folder.require_replaceable(output)
    cpus = ", ".join(spec.label for spec in specs)
    start = time.perf_counter()
    with spinner(f"loading {source}"):
        bits = {
            "activation_bits": activation_bits,
            "attention_bits": attention_bits,
            "embedding_bits": embedding_bits,
        }
        model = open_for_lowering(source, recipe, bits)
    with spinner(f"compiling for {cpus}", lasting=True):
        import tbt_compile

        tokenizer = tokenizer_of(source)
        tokens = None if shortlist is None else tokens_of(shortlist, tokenizer)
        free = dynamic_lengths(model)
        compiled = tbt_compile.lower(model, target=specs, shortlist=tokens, dynamic_shapes=free, clock=clock)
        compiled.save(output, tokenizer=processor_of(source, tokenizer))
    if isinstance(compiled, tbt_compile.CompiledModel) and tokenizer is None:
        warn(
            f"{source} has no tokenizer.json: {output} generates from token ids in Python, but `tbt run` "
            "needs the tokenizer; save it in the model's folder with save_pretrained and lower again"
        )
    written = compiled.shortlist if isinstance(compiled, tbt_compile.CompiledModel) else None
    figures = {
        "output": str(output),
        "targets": [spec.as_dict() for spec in specs],
        "size_mib": model_folder.folder_bytes(output) / 2**20,
        "tokens": None if written is None else len(written),
        **{f"{name}_mib": size / 2**20 for name, size in compiled.sizes().items()},
        "seconds": time.perf_counter() - start,
    }
    write_json(figures, json_path)
    if str(json_path) != "-":
        size, seconds = figures["size_mib"], figures["seconds"]
        text = f"{output}: {size:.1f} MiB for {cpus}, {seconds:.0f} s"
        if len(specs) > 1:
            shared, weights = figures["shared_mib"], figures["weights_mib"]
            text += f"; {shared:.1f} of {weights:.1f} MiB of tensors serve every CPU"
        if figures["tokens"] is not None:
            text += f"; writes {figures['tokens']} tokens"
        out.print(text, highlight=False, soft_wrap=True)
