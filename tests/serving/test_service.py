"""The HTTP interface: answers equal to `generate`, streams, limits, and errors that OpenAI's clients read."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import tbt_compile
from tbt_compile.errors import FormatError
from tbt_compile.runtime.served_model import ServedModel
from tbt_compile.serving import tokenizing
from tbt_compile.serving.service import Service
from tbt_compile.serving.settings import ServiceSettings
from tbt_compile.serving.tokenizing import ServedTokenizer

PROMPT = "w1 w2 w3"


def expected(service: Service, prompt: str, **settings: Any) -> str:
    ids = service.routes.tokenizer.encode(prompt, keep_end=False)
    tokens = service.model.generate([ids], [[1] * len(ids)], num_beams=1, **settings)
    return service.routes.tokenizer.decode(tokens[0, len(ids) :].tolist())


def events(text: str) -> list[dict[str, Any]]:
    parts = text.strip().split("\n\n")
    assert parts[-1] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


def test_a_completion_is_what_generate_writes(service: Service, client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "tiny", "prompt": PROMPT, "max_tokens": 12}).json()
    assert answer["choices"][0]["text"] == expected(service, PROMPT, max_new_tokens=12)
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["total_tokens"] == 3 + answer["usage"]["completion_tokens"]
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")


def test_prompts_of_every_form(service: Service, client: TestClient) -> None:
    ids = service.routes.tokenizer.encode(PROMPT, keep_end=False)
    other = service.routes.tokenizer.encode("w9", keep_end=False)
    for prompt, texts in (
        ([PROMPT, "w9"], [PROMPT, "w9"]),
        (ids, [PROMPT]),
        ([ids, other], [PROMPT, "w9"]),
    ):
        answer = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 5}).json()
        assert [choice["text"] for choice in answer["choices"]] == [
            expected(service, text, max_new_tokens=5) for text in texts
        ]


def test_samples(service: Service, client: TestClient) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 12, "temperature": 2.0, "n": 3, "seed": 5}
    first, again = (client.post("/v1/completions", json=asked).json()["choices"] for _ in range(2))
    texts = [choice["text"] for choice in first]
    assert texts == [choice["text"] for choice in again]
    assert len(set(texts)) > 1
    assert texts[0] == expected(
        service, PROMPT, max_new_tokens=12, do_sample=True, temperature=2.0, top_k=0, seed=5
    )
    assert client.post("/v1/completions", json={**asked, "temperature": 0, "n": 1}).json()["choices"][0][
        "text"
    ] == expected(service, PROMPT, max_new_tokens=12)


def test_a_stream_is_the_answer_in_parts(service: Service, client: TestClient) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 12, "stream": True, "stream_options": {"include_usage": True}}
    answer = client.post("/v1/completions", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, last = events(answer.text)
    text = "".join(part["choices"][0]["text"] for part in parts)
    assert text == expected(service, PROMPT, max_new_tokens=12)
    assert parts[-1]["choices"][0]["finish_reason"]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0


def test_chat_by_the_template(service: Service, client: TestClient) -> None:
    messages = [
        {"role": "system", "content": "w4"},
        {"role": "user", "content": [{"type": "text", "text": "w5"}]},
    ]
    whole = client.post(
        "/v1/chat/completions", json={"messages": messages, "max_completion_tokens": 9}
    ).json()
    text = expected(service, "system w4 user w5 assistant", max_new_tokens=9)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": text}
    asked = {"messages": messages, "max_tokens": 9, "stream": True}
    parts = events(client.post("/v1/chat/completions", json=asked).text)
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts) == text
    assert parts[0]["object"] == "chat.completion.chunk"


def test_stop_strings(service: Service, client: TestClient) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 40, "temperature": 2, "seed": 2}
    text = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    words = text.split()
    assert len(words) > 4
    stop = f"{words[2]} {words[3]}"
    asked |= {"stop": ["nowhere", stop]}
    answer = client.post("/v1/completions", json=asked).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (text[: text.index(stop)], "stop")
    parts = events(client.post("/v1/completions", json={**asked, "stream": True}).text)
    assert "".join(part["choices"][0]["text"] for part in parts) == answer["text"]


def test_a_sequence_to_sequence_model(bart_client: TestClient, bart_folder: Path) -> None:
    model: Any = tbt_compile.load(bart_folder)
    from tbt_compile.serving.tokenizing import ServedTokenizer

    tokenizer = ServedTokenizer(bart_folder, ())
    ids = tokenizer.encode(PROMPT, keep_end=True)

    def written(**settings: Any) -> str:
        return tokenizer.decode(model.generate([ids], [[1] * len(ids)], **settings)[0].tolist())

    answer = bart_client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 7}).json()
    assert answer["choices"][0]["text"] == written(num_beams=1, max_new_tokens=7)
    asked = {"texts": [PROMPT, "w7"], "num_beams": 3, "max_new_tokens": 6}
    assert bart_client.post("/translate", json=asked).json()["texts"][0] == written(
        num_beams=3, max_new_tokens=6
    )
    refused = bart_client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "w1"}]})
    assert (refused.status_code, "no chat template" in refused.json()["error"]["message"]) == (400, True)


def test_models_health_metrics_and_page(client: TestClient) -> None:
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/v1/models/tiny").json()["object"] == "model"
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/health").json()["status"] == "ok"
    assert client.head("/health").status_code == 200
    metrics = client.get("/metrics").text
    assert 'tbt_requests_total{route="/v1/models",status="200"}' in metrics
    assert "tbt_new_tokens_total" in metrics
    assert "<title>tbt serve</title>" in client.get("/").text


LOOPS = "{% set all = range(9999) | list %}" + "{% for a in all %}" * 3 + "{% endfor %}" * 3
SORTS = "{% for a in range(9999) %}{% set found = (range(99999) | list * 3) | sort(reverse=a) %}{% endfor %}"


@pytest.mark.parametrize("loops", [LOOPS, SORTS], ids=["steps", "seconds"])
def test_a_template_that_never_ends(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch, loops: str
) -> None:
    monkeypatch.setattr(tokenizing, "_MOST_SECONDS", 0.5 if loops == SORTS else 600.0)
    template = service.routes.tokenizer._template
    service.routes.tokenizer._template = template.environment.from_string(loops)
    answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "w1"}]})
    service.routes.tokenizer._template = template
    assert answer.status_code == 400
    assert "chat template does not end within 1000000 steps and" in answer.json()["error"]["message"]


def test_a_chat_is_as_long_as_the_config_says(service: Service, client: TestClient) -> None:
    asked = {"messages": [{"role": "user", "content": "w1"}], "logit_bias": {"2": -100}}
    settings, routes = service.model._settings, service.routes
    whole = client.post("/v1/chat/completions", json=asked).json()["usage"]
    assert whole["total_tokens"] == 257  # all positions, and the last token, which is not read
    routes.model._settings = settings.replace(max_new_tokens=7, max_length=None)
    short = client.post("/v1/chat/completions", json=asked).json()["usage"]
    routes.model._settings = settings
    assert short["completion_tokens"] == 7


def test_prompts_that_begin_alike_are_read_once(service: Service, client: TestClient) -> None:
    def lookups() -> dict[str, float]:
        lines = [line.split() for line in client.get("/metrics").text.splitlines() if "prompt_cache" in line]
        return {name: float(value) for name, value, *_ in (line for line in lines if line[0] != "#")}

    plain: Any = tbt_compile.load(service.routes.folder)
    ids, before = list(range(5, 90)) * 2, lookups()
    for tail in ([7, 8], [9, 10, 11], [7, 8]):
        prompt = [*ids, *tail]
        answer = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 9}).json()
        tokens = plain.generate([prompt], max_new_tokens=9, num_beams=1)[0, len(prompt) :].tolist()
        assert answer["choices"][0]["text"] == service.routes.tokenizer.decode(tokens)
    after = lookups()
    changes = {name.removeprefix("tbt_prompt_cache_"): after[name] - before[name] for name in after}
    assert (changes["lookups_total"], changes["hits_total"], changes["tokens_total"]) == (3, 2, 2 * 128)
    assert changes["bytes"] > 0
    off = Service(service.routes.folder, ServiceSettings(prompt_bytes=0), num_threads=1)
    assert "prompt_cache" not in TestClient(off.app).get("/metrics").text
    off.close()


def test_keys(llama_folder: Path) -> None:
    service = Service(llama_folder, ServiceSettings(api_key="secret"))
    client = TestClient(service.app)
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401
    assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.get("/v1/models", headers={"Authorization": "bearer secret"}).status_code == 200
    for header in ("secret", "Basic secret", "Bearer"):
        assert client.get("/v1/models", headers={"Authorization": header}).status_code == 401
    # Without a key, a body is not even read: this one is larger than any.
    assert client.post("/v1/completions", content=bytes(2**22)).status_code == 401
    assert client.get("/health").status_code == client.get("/").status_code == 200
    service.close()


def test_as_many_tokens_as_the_decoder_has_positions(bart_client: TestClient, bart_folder: Path) -> None:
    most = ServedModel(tbt_compile.load(bart_folder)).longest
    asked = {"prompt": PROMPT, "max_tokens": most}
    assert bart_client.post("/v1/completions", json=asked).status_code == 200
    refused = bart_client.post("/v1/completions", json=asked | {"max_tokens": most + 1})
    assert refused.status_code == 400
    message = refused.json()["error"]["message"]
    assert f"max_tokens={most + 1} are more than the model's {most} positions" in message


def test_a_fault_in_one_output_ends_no_other(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbt_compile.runtime import writing

    sampler = writing.Sampler.__call__

    def broken(self: Any, scores: Any, inputs: Any) -> Any:
        if self._settings.seed == 13:
            raise IndexError("a fault")
        return sampler(self, scores, inputs)

    monkeypatch.setattr(writing.Sampler, "__call__", broken)
    client = TestClient(service.app)
    request = {"prompt": PROMPT, "max_tokens": 40, "temperature": 1.0}
    expected = client.post("/v1/completions", json=request | {"seed": 1}).json()["choices"][0]["text"]
    answers: dict[int, Any] = {}

    def ask(seed: int) -> None:
        answers[seed] = client.post("/v1/completions", json=request | {"seed": seed})

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[13].status_code == 400
    assert "IndexError: a fault" in answers[13].json()["error"]["message"]
    assert answers[1].json()["choices"][0]["text"] == expected


def test_a_full_queue_and_a_timeout(llama_folder: Path) -> None:
    service = Service(llama_folder, ServiceSettings(most_rows=1, most_waiting=2, timeout=0.05), num_threads=1)
    client = TestClient(service.app)
    never = client.post("/v1/completions", json={"prompt": PROMPT, "n": 4, "temperature": 1})
    assert (never.status_code, "4 outputs in one request" in never.json()["error"]["message"]) == (400, True)
    held, begun = threading.Event(), threading.Event()

    def hold(_token: int) -> None:
        begun.set()
        held.wait(60)

    chosen = service.model._settings.replace(max_new_tokens=2)
    service.routes.engine.submit([service.routes.engine.prepare([5], chosen, 0, hold, lambda _how: None)])
    assert begun.wait(30)
    full = client.post("/v1/completions", json={"prompt": PROMPT, "n": 3, "temperature": 1})
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert full.json()["error"]["code"] == "queue_full"
    slow = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2})  # waits for the held row
    held.set()
    assert slow.status_code == 504
    assert service.routes.engine.running <= 1
    service.close(finish=False)


def test_a_tokenizer_that_contradicts_itself_is_damaged(llama_folder: Path, tmp_path: Path) -> None:
    """The package behind it panics, or raises an exception without a class of its own."""
    content = json.loads((llama_folder / "tokenizer.json").read_text())
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}]}
    template |= {"pair": template["single"], "special_tokens": {}}
    without = {word: place for word, place in content["model"]["vocab"].items() if word != "<unk>"}
    for wrong in (
        {**content, "post_processor": template},
        {**content, "model": {**content["model"], "vocab": without}, "added_tokens": []},
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match="tokenizer.json is damaged .*: save the tokenizer again"):
            ServedTokenizer(tmp_path, [2]).encode("an unknown word", keep_end=True)


def test_no_page_loads_anything_from_elsewhere(llama_folder: Path) -> None:
    service = Service(llama_folder, ServiceSettings(), num_threads=1)
    client = TestClient(service.app)
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert "/v1/completions" in client.get("/openapi.json").json()["paths"]
    page = client.get("/").text
    assert "https://" not in page and "http://" not in page.replace("http://www.w3.org/", "")
    service.close(finish=False)
