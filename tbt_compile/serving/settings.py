"""The limits of a service."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import HTTPException

BYTES_OF_TEXT = 2**20
BYTES_OF_AUDIO = 25 * 2**20
PROMPT_BYTES = 2**28


@dataclass(frozen=True)
class ServiceSettings:
    """Limits of a service.

    Attributes:
        name: of the model, as clients see it.
        most_rows: outputs that are written at a time.
        most_waiting: outputs that may wait; a request beyond is answered 429.
        most_bytes: of a request's body, a larger one is answered 413; None: `BYTES_OF_TEXT`, or
            `BYTES_OF_AUDIO` for a model that transcribes.
        most_tokens: of a prompt or source; attention over a long source takes memory by its square.
        most_seconds: of a recording.
        prompt_bytes: that kept prompts may take, of a model that can keep them; see `keep_prompts`.
        timeout: seconds that an answer may take; then it is 504, or a stream ends in an error.
        api_key: that requests have to bring; None: none.
    """

    name: str = "model"
    most_rows: int = 16
    most_waiting: int = 256
    most_bytes: int | None = None
    most_tokens: int = 4096
    most_seconds: float = 1800.0
    prompt_bytes: int = PROMPT_BYTES
    timeout: float = 300.0
    api_key: str | None = None


def check_name(settings: ServiceSettings, name: str | None) -> None:
    """Check the model that a request asks for.

    Raises:
        HTTPException: 404, the service has another.
    """
    if name not in (None, settings.name):
        raise HTTPException(404, f"the model {name!r} does not exist: this service has {settings.name!r}")
