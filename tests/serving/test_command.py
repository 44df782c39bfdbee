"""`tbt serve` as a process: OpenAI's own client, shutdown, and clear errors before it listens."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import RUN, served


@pytest.fixture(scope="module")
def server(llama_folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running service with a key, and its address."""
    with served(llama_folder, "--name", "tiny", "--api-key", "secret") as running:
        yield running


def client_of(address: str, key: str = "secret") -> Any:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


def test_the_openai_client_completes_streams_and_gets_errors(server: tuple[Any, str]) -> None:
    import openai

    client = client_of(server[1])
    assert [model.id for model in client.models.list()] == ["tiny"]
    whole = client.completions.create(model="tiny", prompt="w1 w2", max_tokens=9)
    parts = client.completions.create(model="tiny", prompt="w1 w2", max_tokens=9, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    messages = [{"role": "user", "content": "w5"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    with pytest.raises(openai.BadRequestError, match="positions: lower max_tokens"):
        client.completions.create(model="tiny", prompt="w1", max_tokens=10**6)
    with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
        client_of(server[1], "other").models.list()


def test_a_client_that_hangs_up_ends_its_output(server: tuple[Any, str]) -> None:
    import httpx

    headers = {"Authorization": "Bearer secret"}
    asked = {"prompt": "w1", "max_tokens": 250, "temperature": 2, "logit_bias": {"2": -100}, "stream": True}
    for _ in range(3):
        with httpx.stream("POST", f"{server[1]}/v1/completions", json=asked, headers=headers) as answer:
            next(answer.iter_lines())
    body = json.dumps({**asked, "stream": False}).encode()
    host, port = server[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as gone:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
        gone.sendall(
            f"{head}Content-Type: application/json\r\nAuthorization: Bearer secret\r\n\r\n".encode() + body
        )
    for _ in range(100):
        if httpx.get(f"{server[1]}/health").json()["running"] == 0:
            return
        threading.Event().wait(0.1)
    pytest.fail("outputs went on without a client")


def test_half_a_request_at_shutdown(llama_folder: Path) -> None:
    """A client that never sends the rest holds nothing up, and leaves no traceback."""
    with served(llama_folder, "--timeout", "2") as (process, address):
        host, port = address.removeprefix("http://").split(":")
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        with socket.create_connection((host, int(port))) as half:
            half.sendall(head)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            printed = process.communicate(timeout=60)[0]
    assert "Traceback" not in printed
    assert "Error" not in printed


def test_what_cannot_be_served_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(llama_folder, bare)
    (bare / "tokenizer.json").unlink()
    for folder in (tmp_path / "nothing", bare):
        refused = subprocess.run([*RUN, str(folder)], capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-key", ""], "--api-key is empty or not ASCII"),
        (["--api-key", "schl\u00fcssel"], "--api-key is empty or not ASCII"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_options_that_cannot_be(llama_folder: Path, options: list[str], message: str) -> None:
    command = [*RUN, str(llama_folder), "--port", "0", *options]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
