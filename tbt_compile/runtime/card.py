"""The model card of a compiled folder: what the manifest says, for people, with the hub's header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.recipe import Recipe

_PLAIN = re.compile(r"[^\w .:/()+,@=-]")
_HEADER = """---
library_name: tbt-compile
{pipeline}tags:
- tbt
- quantized
- "{notation}"
---

# {title} at {notation}, compiled

A low-bit model, compiled to CPU libraries by `tbt-compile`: embeddings,
weights and activations of {bits} bits. Running it takes no PyTorch.

{use}

| | |
| --- | --- |
"""
_GENERATES = """```sh
pip install tbt-compile
tbt run FOLDER "The text."
```

```python
import tbt_compile

model = tbt_compile.load("FOLDER")
tokens = model.generate(input_ids)
```"""
_TRANSCRIBES = """```sh
pip install 'tbt-compile[serve]'
tbt serve FOLDER
curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@speech.wav
```

```python
import tbt_compile

model = tbt_compile.load("FOLDER")
tokens = model.generate(input_features=features)
```"""
_CALLED = """```python
import tbt_compile

model = tbt_compile.load("FOLDER")
result = model({arguments})
```"""


def model_card(
    description: Mapping[str, Any],
    targets: Sequence[TargetSpec],
    libraries: Mapping[str, int],
    tensors: Mapping[str, int],
) -> str:
    """Return the card as Markdown.

    Args:
        description: the manifest.
        targets: of all libraries.
        libraries: bytes of their files by name.
        tensors: stored bytes by name.
    """
    recipe = Recipe.from_dict(description["recipe"])
    notation, title = recipe.notation, _plain(description["class"])
    arguments = ", ".join(_plain(argument["name"]) for argument in description.get("inputs", ()))
    rows = {
        "recipe": f"`{recipe!r}`",
        "compiled for": "; ".join(_plain(target.label) for target in targets),
        "kernels": ", ".join(map(_plain, description["kernels"])),
        "weights": f"{sum(tensors.values()) / 2**20:.2f} MiB",
        **{f"`{_plain(name)}`": f"{size / 2**20:.2f} MiB" for name, size in libraries.items()},
        "checkpoint": ", ".join(map(_plain, description["dtype"]["checkpoint"])),
        "made with": ", ".join(f"{name} {_plain(each)}" for name, each in description["versions"].items()),
    }
    if "generation" in description:
        rows["vocabulary"] = str(description["vocabulary"])
        rows["longest input"] = str(description["max_positions"] or "any")
    use = _TRANSCRIBES if "speech" in description else _GENERATES
    head = _HEADER.format(
        pipeline=_pipeline(description),
        notation=notation,
        title=title,
        bits=notation.replace("-", ", "),
        use=use if "generation" in description else _CALLED.format(arguments=arguments),
    )
    return head + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _pipeline(description: Mapping[str, Any]) -> str:
    """The task as the hub calls it, where the manifest tells."""
    if "speech" in description:
        return "pipeline_tag: automatic-speech-recognition\n"
    decoder_only = "generation" in description and "encoder" not in description["functions"]
    return "pipeline_tag: text-generation\n" if decoder_only else ""


def _plain(text: str) -> str:
    """A name without what Markdown or YAML would read as more."""
    return _PLAIN.sub("_", str(text))
