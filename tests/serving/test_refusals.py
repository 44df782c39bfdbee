"""Requests that do not fit are refused by a sentence that names the field, and cost nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tbt_compile.serving.service import Service

PROMPT = "w1 w2 w3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "the prompt is empty: expected at least one token"),
        ({"prompt": []}, "prompt is an empty list"),
        (
            {"prompt": "w1 " * 5000},
            "5000 tokens: this service takes at most 4096, which `tbt serve --max-tokens` sets",
        ),
        ({"prompt": [5, 10**6]}, "prompt: token 1000000: expected ids from 0 to 95"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 10**6}, "a prompt of 3 tokens and max_tokens=1000000 are more than the model's 256"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"model": "gpt"}, "the model 'gpt' does not exist"),
        ({"presence_penalty": 1}, "presence_penalty is not available"),
        ({"logprobs": 3}, "logprobs is not available: leave it out"),
        ({"best_of": 2}, "best_of is not available: leave it out"),
        ({"echo": True}, "echo is not available: leave it out"),
        ({"tools": [{"type": "function"}]}, "tools is not available: leave it out"),
        ({"functions": []}, "functions: Extra inputs are not permitted"),
        (
            {"stop": ["a", "b", "c", "d", "e"]},
            "stop: Input should be a valid string; or: List",
        ),
        ({"prompt": [5, "a"]}, "prompt: Input should be a valid string; or: "),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias: Dictionary should have at"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias: '1_0' is no token id"),
        ({"logit_bias": {"9" * 5000: 1}}, "9' is no token id"),
        ({"logit_bias": {"065": 1}}, "logit_bias: '065' is no token id"),
        ({"prompt": [[5]] * 20_000, "n": 16}, "320000 outputs in one request: expected at most 12"),
        ({"logit_bias": {"a": 1}}, "logit_bias: 'a' is no token id"),
        ({"logit_bias": {"1000": 1}}, "logit_bias: token 1000: expected ids from 0 to 95"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_requests_that_do_not_fit(client: TestClient, changes: dict[str, Any], message: str) -> None:
    for stream in (False, True):
        answer = client.post("/v1/completions", json={"prompt": PROMPT, "stream": stream, **changes})
        assert answer.status_code == (404 if "model" in changes else 400)
        assert message in answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "invalid_request_error"
        field = message.partition(" ")[0].rstrip(":")
        if field in changes and "Input should" in message:
            assert answer.json()["error"]["param"] == field


def test_chats_that_ask_for_nothing_special(client: TestClient) -> None:
    asked = {"messages": [{"role": "user", "content": "w1"}], "max_tokens": 4, "temperature": 0}
    plain = client.post("/v1/chat/completions", json=asked).json()["choices"]
    more = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False}
    assert client.post("/v1/chat/completions", json=asked | more).json()["choices"] == plain
    for refused in ({"tools": [{"type": "function"}]}, {"tool_choice": "required"}):
        answer = client.post("/v1/chat/completions", json=asked | refused)
        assert answer.status_code == 400
        assert "is not available: leave it out" in answer.json()["error"]["message"]
    answer = client.post("/v1/chat/completions", json=asked | {"response_format": {"type": "json_object"}})
    assert "response_format.type: Input should be 'text'" in answer.json()["error"]["message"]


def test_bodies_that_are_no_requests(client: TestClient) -> None:
    broken = client.post("/v1/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    assert "the body is no JSON: " in broken.json()["error"]["message"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl sends it
    answer = client.post("/v1/completions", content=b'{"prompt": "w1"}', headers=form)
    assert "and the header Content-Type: application/json" in answer.json()["error"]["message"]
    assert client.post("/v1/completions", content=b"\xff\xfe").status_code == 400
    large = json.dumps({"prompt": "w1 " * 2**20}).encode()
    for body in (large, iter([large[:1000], large[1000:]])):  # with a declared length, and without
        answer = client.post("/v1/completions", content=body)
        assert answer.status_code == 413
        assert "larger than 1048576 bytes" in answer.json()["error"]["message"]
    assert client.get("/nothing").json()["error"]["message"] == "Not Found"


def test_texts_that_are_no_unicode_and_templates_that_fail(service: Service, client: TestClient) -> None:
    surrogate, asked = "\ud800", {"messages": [{"role": "user", "content": "w1"}]}
    for route, given in (
        ("completions", {"prompt": surrogate}),
        ("chat/completions", {"messages": [{"role": "user", "content": surrogate}]}),
    ):
        kind = {"Content-Type": "application/json"}
        answer = client.post(f"/v1/{route}", content=json.dumps(given), headers=kind)
        assert answer.status_code == 400
        assert "nicode" in answer.json()["error"]["message"]
    template = service.routes.tokenizer._template
    service.routes.tokenizer._template = template.environment.from_string("{{ 1 / 0 }}")
    answer = client.post("/v1/chat/completions", json=asked)
    service.routes.tokenizer._template = template
    assert (answer.status_code, "ZeroDivisionError" in answer.json()["error"]["message"]) == (400, True)
