"""The parsers and loaders that `fuzz.py` feeds: each makes an input of random choices, and hands it over."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz_files import SIZES, configs, gguf, json_lines, safetensors
from fuzz_folders import Surface, keys, manifests, small_folders, tensor_files, tokenizers
from fuzz_inputs import ODD, as_json, mutated_bytes, mutated_json, mutated_text
from transformers import LlamaConfig, LlamaForCausalLM

import tbt_compile
from tbt_compile import Recipe
from tbt_compile.codegen.target.parse import parse_target, parse_targets
from tbt_compile.errors import TbtError
from tbt_compile.recipe import names
from tbt_compile.runtime.generation import GenerationSettings


def recipes(_folder: Path) -> Surface:
    """E-W-A notation, names and options."""
    texts = ("2-2-2", "1-1-8", "32-2-8", *names())

    def one(chance: Random) -> None:
        if chance.random() < 0.5:
            values = mutated_json(Recipe.parse(chance.choice(texts)).to_dict(), chance)
            recipe = Recipe.from_dict(values)
        else:
            recipe = Recipe.parse(mutated_text(chance.choice(texts), chance))
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        str(recipe), repr(recipe)

    return one


def targets(_folder: Path) -> Surface:
    """CPUs, systems and LLVM's options."""
    texts = (
        "host",
        "cortex-a72",
        "haswell windows",
        "apple-m1",
        "llvm -mcpu=znver4 -mattr=+dotprod",
        "graviton3",
    )
    options = parse_target("cortex-a72").as_dict()

    def one(chance: Random) -> None:
        if chance.random() < 0.5:
            parse_target(mutated_text(chance.choice(texts), chance))
        elif chance.random() < 0.5:
            parse_target(mutated_json({**options, "mattr": ["+dotprod"]}, chance))
        else:
            parse_targets(mutated_json(list(texts[:3]), chance))

    return one


def settings(_folder: Path) -> Surface:
    """Generation configs."""
    given = {"num_beams": 4, "eos_token_id": [2], "bad_words_ids": [[3, 4]], "sequence_bias": [[[3], 0.5]]}
    given |= {
        "max_new_tokens": 8,
        "temperature": 0.7,
        "top_k": 3,
        "suppress_tokens": [5],
        "early_stopping": True,
    }
    given |= {"exponential_decay_length_penalty": [3, 1.2], "forced_bos_token_id": 0, "length_penalty": 0.9}

    def one(chance: Random) -> None:
        for make in (GenerationSettings.from_dict, GenerationSettings.from_fields):
            with contextlib.suppress(TbtError):
                made = make(_named(mutated_json(given, chance)))
                assert GenerationSettings.from_dict(made.to_dict()) == made
        GenerationSettings().replace(**_named(mutated_json(given, chance)))

    return one


def arguments(folder: Path) -> Surface:
    """Arguments of commands that end at once."""
    import typer

    from tbt_compile.cli.app import app

    made = small_folders(folder)
    command = typer.main.get_command(app)
    commands = ("run", "lower", "summary", "targets", "operators", "sign", "evaluate", "verify", "report")
    known = {
        name: [option for each in command.commands[name].params for option in each.opts] for name in commands
    }
    places = [*map(str, made.values()), str(folder), "nowhere", "", "/dev/null", "../..", "\0", "--"]

    def one(chance: Random) -> None:
        name = chance.choice(commands)
        words = [name]
        for _ in range(chance.randrange(5)):
            words.append(
                chance.choice(
                    (chance.choice(known[name]), chance.choice(places), str(chance.choice(ODD))[:300])
                )
            )
        if name in ("lower", "report"):  # which would compile, and measure
            words = [name, "nowhere", *words[1:]]
        words = [word if word not in ("-o", "--output", "--json") else "--nothing" for word in words]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                command.main(words)
            except SystemExit as stop:
                if stop.code not in (0, 1, 2):
                    raise RuntimeError(f"exit code {stop.code}") from stop
                if stop.code:
                    raise TbtError("refused by the command line") from stop

    return one


def requests(folder: Path) -> Surface:
    """HTTP requests to `tbt serve`."""
    from fastapi.testclient import TestClient

    from tbt_compile.data.tokenization import train_word_tokenizer
    from tbt_compile.serving.service import Service
    from tbt_compile.serving.settings import ServiceSettings

    tokenizer = train_word_tokenizer(["a word and another , user assistant"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    model = tbt_compile.prepare(LlamaForCausalLM(LlamaConfig(**SIZES)), "2-2-2")
    model(input_ids=torch.arange(8)[None])
    place = tbt_compile.lower(model.eval()).save(folder / "served", tokenizer=tokenizer)
    service = Service(
        place, ServiceSettings("small", most_rows=2, most_bytes=4096, most_tokens=24), num_threads=1
    )
    client = TestClient(service.app, raise_server_exceptions=False)
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {
            "prompt": "a word",
            "max_tokens": 2,
            "temperature": 0.5,
            "seed": 1,
            "n": 1,
            "stop": ["x"],
        },
        "/v1/chat/completions": {
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 2,
            "stream": True,
        },
    }
    routes = (*bodies, "/v1/models", "/health", "/metrics", "/", "/v1/models/small", "/translate", "/nothing")

    def one(chance: Random) -> None:
        if chance.random() < 0.9:
            route = chance.choice(list(bodies))
            body = as_json(mutated_json(bodies[route], chance))
            body = mutated_bytes(body, chance) if chance.random() < 0.3 else body
            answer = client.post(route, content=body, headers={"content-type": "application/json"})
        else:
            method = chance.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))
            answer = client.request(method, chance.choice(routes), content=b"x" * chance.choice((0, 5, 5000)))
        if answer.status_code >= 500:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code >= 400:
            raise TbtError(answer.text or str(answer.status_code))

    one.close = lambda: service.close(finish=False)
    return one


SURFACES: dict[str, Callable[[Path], Surface]] = {
    each.__name__: each
    for each in (recipes, targets, settings, manifests, tensor_files, tokenizers, keys, configs, safetensors)
}
SURFACES |= {each.__name__: each for each in (gguf, json_lines, arguments, requests)}
SHARES = dict.fromkeys(SURFACES, 10) | {"recipes": 15, "settings": 15, "targets": 5, "keys": 5}
SHARES |= {"manifests": 2, "tensor_files": 1, "arguments": 1, "requests": 2}
"""How many of the inputs each gets, relative to the others: those that load whole folders get fewer."""


def _named(values: Any) -> dict[str, Any]:
    """Keyword arguments of whatever came of some."""
    return (
        {str(name): value for name, value in values.items()}
        if isinstance(values, dict)
        else {"num_beams": values}
    )
