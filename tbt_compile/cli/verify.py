"""`tbt verify`: compare a compiled folder, node by node, with the model that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tbt_compile.cli.console import JsonOption, spinner, write_json

DIVERGED = 1
"""Exit code if anything differs."""


def verify(
    source: Annotated[
        Path, typer.Argument(help="Folder of the trained or packed model, as for `tbt lower`.")
    ],
    compiled: Annotated[Path, typer.Argument(help="Folder that `tbt lower` wrote.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts to run both on (default: example tokens).")
    ] = None,
    num_beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.", min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate for each text.", min=1)] = 8,
    least: Annotated[
        float, typer.Option(help="Share of tokens that has to be equal, 0 to 1.", min=0, max=1)
    ] = 0.99,
    recipe: Annotated[str | None, typer.Option(help="As given to `tbt lower`.")] = None,
    every: Annotated[
        bool, typer.Option("--nodes", help="List every node, not only those that differ.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Check that a compiled model computes what its source computes, bit for bit.

    Every operator of the compiled model is computed again in PyTorch from the same operands, and the tokens
    are compared. Exit code 0 says that every node is equal and enough tokens are; 1 that they are not, and
    names the first node that differs.

    Examples:

        tbt verify trained/student-2-2-2 compiled

        tbt verify trained/student-2-2-2 compiled "The first text." "The second text." --num-beams 4

        tbt verify packed compiled --nodes --json nodes.json
    """
    import tbt_compile
    from tbt_compile.cli.models import open_for_lowering, stage_of
    from tbt_compile.errors import FormatError
    from tbt_compile.inspection.verification_text import verification_text
    from tbt_compile.storage import model_folder

    if stage_of(compiled) not in (model_folder.GENERATOR, model_folder.MODULE):
        raise FormatError(f"{compiled} is not compiled: name a folder that `tbt lower` wrote second")
    with spinner(f"loading {source} and {compiled}"):
        model = open_for_lowering(source, recipe, {})
        tested: Any = tbt_compile.load(compiled)
        inputs = _encoded(text, source, tested) if text else None
    with spinner("running both"):
        found = tbt_compile.verify(
            model, tested, inputs, least=least, num_beams=num_beams, max_new_tokens=max_new_tokens
        )
    write_json(found.to_dict(), json_path)
    if str(json_path) != "-":
        typer.echo(verification_text(found, every))
    if not found.ok:
        raise typer.Exit(DIVERGED)


def _encoded(texts: list[str], source: Path, compiled: Any) -> dict[str, Any]:
    """Token ids and mask of texts, padded on the side that the model takes padding on."""
    from tbt_compile.cli.models import tokenizer_of
    from tbt_compile.errors import FormatError

    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        raise FormatError(f"{source} has no tokenizer.json: leave the texts out")
    tokenizer.padding_side = "right" if compiled.is_encoder_decoder else "left"
    batch = tokenizer(texts, padding=len(texts) > 1, return_tensors="np")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
