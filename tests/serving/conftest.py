"""Two services: a Llama with a chat template, and a BART."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")

from compiled_tools import trained
from fastapi.testclient import TestClient
from models import bart, llama
from once import once
from tokenizers.processors import TemplateProcessing

import tbt_compile
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.serving.service import Service
from tbt_compile.serving.settings import ServiceSettings

WORDS = [f"w{number}" for number in range(80)]
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ message.role }} {{ message.content }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def folder_of(kind: str, factory: pytest.TempPathFactory) -> Path:
    model = llama(layers=1, max_position_embeddings=256) if kind == "llama" else bart(layers=1)

    def make(folder: Path) -> None:
        tokenizer = train_word_tokenizer([" ".join(WORDS), "user assistant system"])
        if kind == "llama":
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
            tokenizer.chat_template = TEMPLATE
        assert len(tokenizer) <= model.config.vocab_size
        tbt_compile.lower(trained(model, "2-2-2")).save(folder / "model", tokenizer=tokenizer)

    return once(factory, f"served-{kind}", make) / "model"


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("llama", tmp_path_factory)


@pytest.fixture(scope="session")
def bart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("bart", tmp_path_factory)


@pytest.fixture(scope="module")
def service(llama_folder: Path) -> Iterator[Service]:
    made = Service(llama_folder, ServiceSettings("tiny", most_rows=4, most_waiting=8), num_threads=1)
    yield made
    made.close(finish=False)


@pytest.fixture(scope="module")
def client(service: Service) -> TestClient:
    return TestClient(service.app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def bart_client(bart_folder: Path) -> Iterator[TestClient]:
    made = Service(bart_folder, ServiceSettings("seq2seq", most_rows=4), num_threads=1)
    yield TestClient(made.app, raise_server_exceptions=False)
    made.close(finish=False)
