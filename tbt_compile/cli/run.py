"""`tbt run`: text in, text out, from a compiled folder; neither PyTorch nor transformers is loaded."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbt_compile.cli.console import JsonOption, out, spinner, write_json
from tbt_compile.errors import FormatError, TbtError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


def run_text(
    folder: Annotated[Path, typer.Argument(help="Folder that `tbt lower` wrote.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, one per line of standard input.")
    ] = None,
    num_beams: Annotated[int, typer.Option(help="1 is greedy search.")] = 1,
    max_new_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to use.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Generate text with a compiled model.

    Examples:

        tbt run compiled "A man is riding a horse ."

        tbt run compiled --num-beams 4 < sentences.txt > translations.txt
    """
    import tbt_compile
    from tbt_compile import storage
    from tbt_compile.torchless import hide_torch

    hide_torch()

    texts = text if text else [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise TbtError("there is no text: give one after the folder, or lines on standard input")
    kind = storage.peek_kind(folder)
    if kind == storage.MODULE:
        raise FormatError(f"{folder} holds a module that does not generate text: call it in Python")
    if kind != storage.GENERATOR:
        raise FormatError(f"{folder} is packed but not compiled; run `tbt lower {folder} --output NEW` first")
    tokenizer = _tokenizer(folder)
    with spinner(f"loading {folder}"):
        model: Any = tbt_compile.load(folder, num_threads=threads)
    options: dict[str, Any] = {"num_beams": num_beams}
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    results = []
    for source in texts:
        ids, mask = _encode(tokenizer, [source])
        start = time.perf_counter()
        tokens = model.generate(ids, attention_mask=mask, **options)
        seconds = time.perf_counter() - start
        results.append({"source": source, "text": _decode(tokenizer, tokens[0]), "seconds": seconds})
        if str(json_path) != "-":
            out.print(results[-1]["text"], markup=False, highlight=False, soft_wrap=True)
    write_json(results, json_path)


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FormatError(
            f"{folder} has no tokenizer.json; compile a folder that has one, or give token ids to "
            "tbt_compile.load(...).generate in Python"
        )
    return Tokenizer.from_file(str(path))


def _encode(tokenizer: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    rows = [tokenizer.encode(text).ids for text in texts]
    ids = np.array(rows, dtype=np.int64)
    return ids, np.ones_like(ids)


def _decode(tokenizer: Any, tokens: np.ndarray) -> str:
    return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))
