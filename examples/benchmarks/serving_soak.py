"""A service for hours: mixed traffic, and memory, open files and threads that have to stay as they are.

    python examples/benchmarks/serving_soak.py --requests 20000 --json soak.jsonl
    python examples/benchmarks/serving_soak.py --folder compiled --requests 20000 --json soak.jsonl

Without a folder, a small Llama with random weights is compiled. Several clients send completions, chats,
streams, requests that they leave, half requests and malformed ones; translations and recordings where the
model has these routes. Requests are drawn from a fixed number, and whatever is asked again has to be
answered alike. Figures are printed and appended to the file after every part; started again with the same
file, it goes on where it was, with a new service. The exit status is 1 if an answer was wrong, the service
failed, or something grew.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import socket
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from serving import MALFORMED, Server, make_folder

SYSTEM, PROMPT, NEW, DISTINCT = 200, 300, 48, 400
AUDIO = "/v1/audio/transcriptions"
MORE_MIB, MORE_SHARE, MORE_FILES, MORE_THREADS = 24.0, 0.1, 8, 4
"""By how much a service may grow after its first tenth: buffers of sizes that come late, connections."""
Send = Callable[[httpx.Client, dict[str, Any]], str | None]


def held(server: Server) -> dict[str, float]:
    """Memory in MiB, open files and threads of the service."""
    folder = Path(f"/proc/{server.process.pid}")
    threads = len(list((folder / "task").iterdir()))
    return {"mib": server.memory(), "files": len(list((folder / "fd").iterdir())), "threads": threads}


def grown(rows: Iterable[dict[str, float]]) -> list[str]:
    """What grew from the first of the rows to the last; the first is one of a service that is warm."""
    first, *_, last = rows
    most = {
        "mib": first["mib"] * (1 + MORE_SHARE) + MORE_MIB,
        "files": first["files"] + MORE_FILES,
        "threads": first["threads"] + MORE_THREADS,
    }
    return [f"{name} {first[name]:.0f} -> {last[name]:.0f}" for name in most if last[name] > most[name]]


def asked(number: int, vocabulary: int, longest: int) -> dict[str, Any]:
    """The request of a number: most prompts begin like others, and half of the outputs are samples.

    Args:
        number: of the request.
        vocabulary: tokens to draw from.
        longest: positions of the model.
    """
    generator = random.Random(number)
    system = random.Random(number % 5)
    begin = min(SYSTEM, longest // 3) * (number % 3 > 0)
    prompt = [system.randrange(5, vocabulary) for _ in range(begin)]
    prompt += [
        generator.randrange(5, vocabulary) for _ in range(generator.randint(1, min(PROMPT, longest // 3)))
    ]
    request: dict[str, Any] = {"prompt": prompt, "max_tokens": generator.randint(2, min(NEW, longest // 6))}
    if number % 2:
        request |= {"temperature": 0.8, "top_p": 0.95, "seed": number}
    return request


def complete(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """A whole completion."""
    text: str = client.post("/v1/completions", json=request).raise_for_status().json()["choices"][0]["text"]
    return text


def stream(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """The same as a stream."""
    text = ""
    with client.stream("POST", "/v1/completions", json={**request, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
    return text


def chat(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """A conversation; its text is of the numbers of the prompt."""
    given = {name: value for name, value in request.items() if name != "prompt"}
    content = " ".join(f"w{token}" for token in request["prompt"])
    asked = {**given, "messages": [{"role": "user", "content": content}]}
    found = client.post("/v1/chat/completions", json=asked).raise_for_status().json()
    text: str = found["choices"][0]["message"]["content"]
    return text


def leave(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """Hang up in the middle of a stream."""
    with client.stream("POST", "/v1/completions", json={**request, "stream": True}) as answer:
        for count, _ in enumerate(answer.iter_lines()):
            if count > len(request["prompt"]) % 8:
                break
    return None


def half(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """Send half of a request, or all of it and read no answer, and hang up."""
    body = json.dumps(request).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: a", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    place = urlsplit(str(client.base_url))
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head + body[: len(body) >> len(request["prompt"]) % 2])
    return None


def malformed(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """A request that has to be refused."""
    body, status = MALFORMED[len(request["prompt"]) % len(MALFORMED)]
    found = client.post("/v1/completions", content=body)
    if found.status_code != status or "error" not in found.json():
        raise ValueError(f"{body[:40]!r}: {found.status_code}")
    return None


def translate(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """A few texts through an encoder-decoder, with beams."""
    words = [f"w{token}" for token in request["prompt"]]
    texts = [" ".join(words[start::3][:40]) or "w1" for start in range(3)]
    given = {"texts": texts, "num_beams": 2, "max_new_tokens": request["max_tokens"]}
    return json.dumps(client.post("/translate", json=given).raise_for_status().json()["texts"])


def transcribe(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """A recording of noise of some seconds."""
    samples = np.random.default_rng(len(request["prompt"])).integers(-3000, 3000, 80 * len(request["prompt"]))
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(16_000)
        written.writeframes(samples.astype("<i2").tobytes())
    found = client.post(AUDIO, files={"file": ("noise.wav", file.getvalue())})
    text: str = found.raise_for_status().json()["text"]
    return text


def no_recording(client: httpx.Client, request: dict[str, Any]) -> str | None:
    """A file that has to be refused."""
    found = client.post(AUDIO, files={"file": ("noise.wav", bytes(request["prompt"][0] % 256))})
    if found.status_code != 400 or "error" not in found.json():
        raise ValueError(f"a broken recording: {found.status_code}")
    return None


def kinds(paths: Iterable[str]) -> list[Send]:
    """The kinds of requests that the routes of a service allow, the common ones more than once."""
    if AUDIO in paths:
        return [transcribe] * 4 + [no_recording]
    text: list[Send] = [*[complete] * 4, *[stream] * 4, leave, leave, half, malformed]
    return text + ([translate] * 2 if "/translate" in paths else [chat] * 2)


class Traffic:
    """Sends requests, and compares the answers with earlier ones.

    Args:
        address: of the service.
        clients: that send at a time.
        model: the manifest of the folder.
    """

    def __init__(self, address: str, clients: int, model: dict[str, Any]) -> None:
        self.address, self.clients = address, clients
        self.vocabulary = min(int(model["vocabulary"]), model["limits"]["source"]["vocabulary"] or 10**9)
        self.longest = int(model["max_positions"] or 1024)
        self.kinds = kinds(httpx.get(f"{address}/openapi.json").json()["paths"])
        self.known: dict[tuple[str, int], str] = {}
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def send(self, first: int, count: int) -> None:
        """Send the requests from a number on, by all clients."""
        numbers = iter(range(first, first + count))

        def client() -> None:
            with httpx.Client(base_url=self.address, timeout=300) as connection:
                while True:
                    with self._lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    self._one(connection, number)

        threads = [threading.Thread(target=client) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, client: httpx.Client, number: int) -> None:
        generator = random.Random(f"request {number}")
        kind, which = generator.choice(self.kinds), generator.randrange(DISTINCT)
        try:
            text = kind(client, asked(which, self.vocabulary, self.longest))
        except Exception as error:  # any is a failure of the service
            self.problems.append(f"{kind.__name__} {which}: {type(error).__name__}: {error}")
            return
        same = "complete" if kind is stream else kind.__name__
        if text is not None and self.known.setdefault((same, which), text) != text:
            self.problems.append(f"{kind.__name__} {which} was answered otherwise before")


def rest(server: Server, address: str) -> None:
    """Wait until the service has nothing to do, a minute at most: what was left ends at its next step."""
    for _ in range(600):
        found = httpx.get(f"{address}/health").json()
        if found["running"] == found["waiting"] == 0:
            break
        time.sleep(0.1)
    time.sleep(1)
    assert server.process.poll() is None, "the service has ended"


def soak(folder: Path, options: argparse.Namespace) -> list[str]:
    """Send what is left of the requests; returns the problems."""
    path: Path = options.json
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = int(rows[-1]["requests"]) if rows else 0
    problems = [problem for row in rows for problem in row["problems"]]
    server = Server(folder, options.clients, options.threads)
    model = json.loads((folder / "manifest.json").read_text())
    traffic, start, mine = Traffic(server.address, options.clients, model), time.perf_counter(), []
    print("requests      MiB  files  threads  requests/s  problems")
    while done < options.requests:
        count, before = min(options.part, options.requests - done), time.perf_counter()
        traffic.send(done, count)
        seconds = time.perf_counter() - before
        rest(server, server.address)
        done += count
        rate = count / seconds
        row = {"requests": done, **held(server), "requests_per_s": rate, "problems": traffic.problems}
        traffic.problems = []
        mine.append(row)
        problems += row["problems"]
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{done:8d} {row['mib']:8.1f} {row['files']:6d} {row['threads']:8d} {rate:11.1f}",
            f"{len(problems):9d}",
            flush=True,
        )
    code = server.stop()
    warm = mine[math.ceil(len(mine) / 10) - 1 :] if mine else []
    if len(warm) > 1:
        problems += grown(warm)
    if code not in (0, 130):
        problems.append(f"exit code {code}")
    print(f"{time.perf_counter() - start:.0f} s; problems: {problems[:5] or 'none'}")
    return problems


def main() -> None:
    """Make a model if there is none, and soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a compiled model with its tokenizer")
    parser.add_argument("--requests", type=int, default=20_000, help="in all, those of earlier runs included")
    parser.add_argument("--clients", type=int, default=16, help="at a time")
    parser.add_argument("--part", type=int, default=500, help="requests between two rows of figures")
    parser.add_argument("--threads", type=int, default=1, help="of a step")
    parser.add_argument("--json", type=Path, default=Path("soak.jsonl"), help="figures, a line per part")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = options.folder or make_folder(Path(work), layers=2, width=128)
        sys.exit(bool(soak(folder, options)))


if __name__ == "__main__":
    main()
