"""A service under load: answers compared, clients that hang up, malformed requests, memory and times.

    python examples/benchmarks/serving.py --requests 2000 --clients 16
    python examples/benchmarks/serving.py --folder compiled --requests 500 --json serving.json

Without a folder, a small Llama with random weights is compiled. Every client draws its next request: a
completion, a stream, one that hangs up after some tokens, a malformed one. Whole answers are compared with
what the model writes for that request alone. Then requests are sent one at a time: the ratio is the gain of
continuous batching. The exit status is 1 if an answer was wrong or the service failed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import tbt_compile
from tbt_compile.bench.conditions import conditions
from tbt_compile.serving.tokenizing import ServedTokenizer

LENGTHS, LEAST_NEW = (1, 60), 8
MALFORMED: tuple[tuple[bytes, int], ...] = (
    (b"{", 400), (b"[]", 400), (b'{"prompt": 5}', 400), (b'{"prompt": "w1", "max_tokens": -1}', 400),
    (b'{"prompt": "w1", "unknown": 1}', 400), (b'{"prompt": "w1", "max_tokens": 9999999}', 400),
    (b"\xff" * 100, 400), (b" " * (2**20 + 1), 413), (b'{"prompt": [1e9]}', 400), (b'{"prompt": [-1]}', 400),
)  # fmt: skip


def make_folder(work: Path, layers: int, width: int, recipe: str = "2-2-2") -> Path:
    """Compile a Llama with random weights and a tokenizer of words.

    Args:
        work: a folder for it.
        layers, width: of the model.
        recipe: its bits.
    """
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM

    from tbt_compile.data.tokenization import train_word_tokenizer

    tokenizer = train_word_tokenizer([" ".join(f"w{number}" for number in range(4000))])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=1024,
        initializer_range=0.2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    model: Any = tbt_compile.prepare(LlamaForCausalLM(config), recipe)
    with torch.no_grad():
        model(torch.randint(5, len(tokenizer), (4, 32)))
    return tbt_compile.lower(model.eval()).save(work / "model", tokenizer=tokenizer)


class Server:
    """`tbt serve` in a process."""

    def __init__(self, folder: Path, rows: int, threads: int) -> None:
        code = "from tbt_compile.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", str(folder), "--port", "0", "--rows", str(rows)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if "http://" in line), "")
        found = re.search(r"at (http://\S+)", line)
        if found is None:
            sys.exit(f"the service did not start: {self.process.wait()}")
        self.address = found[1]

    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit code."""
        self.process.send_signal(2)
        with self.process:  # closes its output
            return self.process.wait(120)


def drawn(generator: random.Random, vocabulary: int, new: int) -> dict[str, Any]:
    """A request: token ids, and greedy or sampled.

    Args:
        generator: draws it.
        vocabulary: tokens to draw from.
        new: the most tokens that it asks for.
    """
    prompt = [generator.randrange(5, vocabulary) for _ in range(generator.randint(*LENGTHS))]
    request: dict[str, Any] = {"prompt": prompt, "max_tokens": generator.randint(LEAST_NEW, new)}
    if generator.random() < 0.5:
        request |= {"temperature": 0.8, "top_p": 0.95, "seed": generator.randrange(2**31)}
    return request


def alone(model: Any, tokenizer: ServedTokenizer, request: dict[str, Any]) -> str:
    """The text of a request by itself."""
    settings: dict[str, Any] = {"num_beams": 1, "max_new_tokens": request["max_tokens"]}
    if "seed" in request:
        settings |= {"do_sample": True, "top_k": 0} | {
            name: request[name] for name in ("temperature", "top_p", "seed")
        }
    ids = request["prompt"]
    tokens = model.generate([ids], [[1] * len(ids)], **settings)
    return tokenizer.decode(tokens[0, len(ids) :].tolist())


class Load:
    """What the clients saw, who ask for at most `new` tokens."""

    def __init__(self, new: int) -> None:
        self.new = new
        self.lock = threading.Lock()
        self.answers: list[tuple[dict[str, Any], str]] = []
        self.seconds: list[float] = []
        self.first: list[float] = []
        self.tokens = 0
        self.problems: list[str] = []

    def one(self, client: httpx.Client, generator: random.Random, vocabulary: int) -> None:
        """Send one request of any kind."""
        kind, request = generator.random(), drawn(generator, vocabulary, self.new)
        start = time.perf_counter()
        if kind < 0.1:
            body, status = generator.choice(MALFORMED)
            found = client.post("/v1/completions", content=body)
            if found.status_code != status or "error" not in found.json():
                self.problems.append(f"malformed {body[:40]!r}: {found.status_code}")
        elif kind < 0.2:
            with client.stream("POST", "/v1/completions", json={**request, "stream": True}) as answer:
                for count, _ in enumerate(answer.iter_lines()):
                    if count > generator.randint(0, 10):
                        break  # hang up
        elif kind < 0.6:
            text = ""
            asked = {**request, "stream": True, "stream_options": {"include_usage": True}}
            with client.stream("POST", "/v1/completions", json=asked) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        part = json.loads(line[6:])
                        if not text and part["choices"]:
                            with self.lock:
                                self.first.append(time.perf_counter() - start)
                        text += "".join(choice["text"] for choice in part["choices"])
                        written = part.get("usage")
            self._done(request, text, written["completion_tokens"], start)
        else:
            whole = client.post("/v1/completions", json=request).json()
            self._done(request, whole["choices"][0]["text"], whole["usage"]["completion_tokens"], start)

    def _done(self, request: dict[str, Any], text: str, tokens: int, start: float) -> None:
        with self.lock:
            self.answers.append((request, text))
            self.seconds.append(time.perf_counter() - start)
            self.tokens += tokens


def send(
    server: Server, requests: int, clients: int, vocabulary: int, seed: int, new: int
) -> tuple[Load, float]:
    """Send requests from several clients; returns what they saw and the seconds it took.

    Args:
        server: to which they go.
        requests: in all.
        clients: threads that each wait for their answer.
        vocabulary: tokens to draw from.
        seed: of the requests.
        new: the most tokens that one asks for.
    """
    load, start = Load(new), time.perf_counter()

    def client(number: int) -> None:
        generator = random.Random(seed * 1000 + number)
        with httpx.Client(base_url=server.address, timeout=120) as connection:
            for _ in range(requests // clients):
                try:
                    load.one(connection, generator, vocabulary)
                except Exception as error:  # any is a failure of the service
                    load.problems.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load, time.perf_counter() - start


def measured(load: Load, seconds: float, requests: int) -> dict[str, float]:
    """Rates, and times of whole answers in milliseconds."""
    return {
        "requests_per_s": requests / seconds,
        "tokens_per_s": load.tokens / seconds,
        "p50_ms": 1000 * float(np.quantile(load.seconds, 0.5)),
        "p99_ms": 1000 * float(np.quantile(load.seconds, 0.99)),
        "first_p50_ms": 1000 * float(np.quantile(load.first, 0.5)),
    }


def main() -> None:
    """Run the load, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a compiled decoder-only model with its tokenizer")
    parser.add_argument("--requests", type=int, default=2000, help="with all clients")
    parser.add_argument("--clients", type=int, default=16, help="at a time")
    parser.add_argument("--sequential", type=int, default=200, help="requests sent one at a time")
    parser.add_argument("--new", type=int, default=64, help="the most tokens that a request asks for")
    parser.add_argument("--threads", type=int, default=1, help="of a step")
    parser.add_argument("--layers", type=int, default=6, help="of the random model")
    parser.add_argument("--width", type=int, default=512, help="of the random model")
    parser.add_argument("--recipe", default="2-2-2", help="of the random model")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.folder or make_folder(
            Path(work), arguments.layers, arguments.width, arguments.recipe
        )
        model: Any = tbt_compile.load(folder, num_threads=1)
        vocabulary, server = (
            model.description["vocabulary"],
            Server(folder, arguments.clients, arguments.threads),
        )
        send(server, 4 * arguments.clients, arguments.clients, vocabulary, 1, arguments.new)
        before = server.memory()
        half, _ = send(server, arguments.requests // 2, arguments.clients, vocabulary, 2, arguments.new)
        middle = server.memory()
        load, seconds = send(server, arguments.requests // 2, arguments.clients, vocabulary, 3, arguments.new)
        after = server.memory()
        single, alone_seconds = send(server, arguments.sequential, 1, vocabulary, 4, arguments.new)
        code = server.stop()
        tokenizer = ServedTokenizer(folder, model._settings.eos_token_id)
        answers = [*half.answers, *load.answers, *single.answers]
        wrong = sum(alone(model, tokenizer, request) != text for request, text in answers)
    problems = half.problems + load.problems + single.problems
    rows = {
        f"{arguments.clients} clients": measured(load, seconds, arguments.requests // 2),
        "one at a time": measured(single, alone_seconds, arguments.sequential),
    }
    print("| | requests/s | tokens/s | p50 ms | p99 ms | first token p50 ms |\n| --- " + "| ---: " * 5 + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |")
    gain = rows[f"{arguments.clients} clients"]["requests_per_s"] / rows["one at a time"]["requests_per_s"]
    print(
        f"\n{gain:.1f}x the requests/s; {len(answers)} answers compared, {wrong} wrong; problems: "
        f"{problems[:3] or 'none'}; memory {before:.0f}, {middle:.0f}, {after:.0f} MiB before, in the "
        f"middle and after; exit code {code}"
    )
    if arguments.json:
        figures = {
            "conditions": conditions(),
            "rows": rows,
            "gain": gain,
            "wrong": wrong,
            "problems": problems,
        }
        arguments.json.write_text(json.dumps({**figures, "memory_mib": [before, middle, after]}, indent=1))
    sys.exit(bool(wrong or problems or code not in (0, 130)))


if __name__ == "__main__":
    main()
