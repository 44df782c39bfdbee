"""Answers of OpenAI's interface: objects, and events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """The form of the answers to one request.

    Attributes:
        model: name of the model.
        chat: whether it is a conversation's, else a completion's.
        prompt_tokens: tokens read.
        new_tokens: tokens written so far.
    """

    model: str
    chat: bool
    prompt_tokens: int
    new_tokens: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
        }

    def whole(self, texts: list[str], finish: list[str]) -> dict[str, Any]:
        """The answer when it is complete."""
        choices = [
            self._choice(index, ("message", {"role": "assistant", "content": text}), text, finish[index])
            for index, text in enumerate(texts)
        ]
        return {**self._head(""), "choices": choices, "usage": self.usage()}

    def chunk(self, index: int, text: str, finish: str | None, first: bool = False) -> dict[str, Any]:
        """A part of a streamed answer.

        Args:
            index: of the choice.
            text: that came to it.
            finish: the reason in its last part.
            first: whether it is its first part.
        """
        delta = {**({"role": "assistant"} if first else {}), "content": text}
        return {**self._head(".chunk"), "choices": [self._choice(index, ("delta", delta), text, finish)]}

    def last(self) -> dict[str, Any]:
        """The part that says how many tokens there were."""
        return {**self._head(".chunk"), "choices": [], "usage": self.usage()}

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _choice(
        self, index: int, message: tuple[str, dict[str, Any]], text: str, finish: str | None
    ) -> dict[str, Any]:
        body = dict([message]) if self.chat else {"text": text}
        return {"index": index, **body, "logprobs": None, "finish_reason": finish}


def event(value: Any) -> str:
    """A server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n\n"


def error(
    message: str,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
) -> dict[str, Any]:
    """The body of an error.

    Args:
        message: what is wrong.
        kind: OpenAI's type of the error.
        code: OpenAI's code, if there is one.
        param: the field that is wrong, if it is one.
    """
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
