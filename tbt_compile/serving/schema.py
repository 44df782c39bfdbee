"""Requests of OpenAI's interface, as far as a compiled model can answer them; others are refused by name."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tbt_compile.errors import ServingError
from tbt_compile.runtime.generation import GenerationSettings

UNAVAILABLE = ("best_of", "echo", "logprobs", "suffix", "tools", "tool_choice")
"""Fields that clients send, and which may have no value that changes anything."""
Penalty = Annotated[float, Field(ge=-2, le=2)]
_TOKEN = re.compile("0|[1-9][0-9]{0,17}")
_MOST_CHOICES, _MOST_STOPS, _MOST_BIASES = 16, 4, 1024


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Sampled(BaseModel):
    """What completions and chat have in common."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    n: Annotated[int | None, Field(ge=1, le=_MOST_CHOICES)] = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = 0
    frequency_penalty: Penalty | None = 0
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=_MOST_BIASES)] | None
    ) = None
    user: str | None = None
    tools: tuple[()] | None = None
    # Not OpenAI's:
    top_k: Annotated[int | None, Field(ge=0)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def check_tokens(self, vocabulary: int) -> None:
        """Check the ids of tokens.

        Raises:
            ServingError: one is no id of the model's vocabulary.
        """
        for name in self.logit_bias or ():
            if not 0 <= _token(name) < vocabulary:
                raise ServingError(f"logit_bias: token {name}: expected ids from 0 to {vocabulary - 1}")

    def changes(self, recorded: dict[str, Any], most: int | None) -> dict[str, Any]:
        """The settings of generation that the request asks for.

        Args:
            recorded: what the model's generation config says of sampling, the default.
            most: new tokens at most; None: as many as the model's config says.

        Returns:
            Fields of `GenerationSettings`.

        Raises:
            ServingError: the request asks for something that is not available.
        """
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                raise ServingError(f"{name} is not available: use repetition_penalty, or leave it out")
        found: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "early_stopping": False}
        if most is not None:
            found |= {"max_new_tokens": most, "max_length": None}
        if self.repetition_penalty is not None:
            found["repetition_penalty"] = self.repetition_penalty
        if self.logit_bias:
            found["sequence_bias"] = [[[_token(name)], bias] for name, bias in self.logit_bias.items()]
        return found | self._sampling(recorded)

    def _sampling(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Greedy if the temperature is 0, or nothing asks for sampling, neither request nor model."""
        asked = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        asked = {name: value for name, value in asked.items() if value is not None}
        if self.temperature == 0 or not (asked or recorded.get("do_sample")):
            return {}
        known = {
            name: value for name, value in recorded.items() if name in GenerationSettings.__annotations__
        }
        seed = {} if self.seed is None else {"seed": self.seed % 2**64}
        return {"top_k": 0, **known, **asked, **seed, "do_sample": True}


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int | None, Field(ge=1)] = 16
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None

    def prompts(self) -> list[str | list[int]]:
        """One text or list of token ids per prompt.

        Raises:
            ServingError: there is no prompt.
        """
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        if not given:
            raise ServingError("prompt is an empty list: expected at least one prompt")
        return list(given)


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        parts = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": parts}


class PlainFormat(BaseModel):
    """The format of an answer: text, as the model writes it."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: Literal[False] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: PlainFormat | None = None


class TranslateRequest(BaseModel):
    """POST /translate: texts through an encoder-decoder, with its own search."""

    model_config = ConfigDict(extra="forbid")
    texts: Annotated[list[str], Field(min_length=1, max_length=1024)]
    num_beams: Annotated[int | None, Field(ge=1, le=64)] = None
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None


def _token(name: str) -> int:
    if not _TOKEN.fullmatch(name):
        raise ServingError(f"logit_bias: {name!r} is no token id")
    return int(name)
