"""What a service takes: the size of bodies, keys, and how errors look. ASGI middleware and handlers."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tbt_compile.errors import TbtError
from tbt_compile.runtime.continuous import FullError
from tbt_compile.serving.answers import error
from tbt_compile.serving.schema import UNAVAILABLE

log = logging.getLogger(__name__)
_OPEN = ("/health", "/")


_SILENCE = 30.0
"""Seconds that a client may wait between two parts of a body."""


class BodyLimit:
    """Refuses requests whose body is larger than `most` bytes, as soon as that is known, or does not come."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application on a request whose body was read whole."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body, more = bytearray(), not declared.isdigit() or int(declared) <= self.most
        while more:
            try:
                message = await asyncio.wait_for(receive(), _SILENCE)
            except (asyncio.TimeoutError, asyncio.CancelledError):  # the latter at the end of a shutdown
                refusal = error("the request did not arrive whole", "server_error", "timeout")
                await JSONResponse(refusal, 408, {"Connection": "close"})(scope, receive, send)
                return
            if message["type"] != "http.request":
                return  # the client is gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.most:
                break
        else:
            if not declared.isdigit() or int(declared) <= self.most:
                await self.app(scope, _replayed(bytes(body), receive), send)
                return
        refusal = error(
            f"the request is larger than {self.most} bytes, the limit of this service, which --max-body sets"
        )
        await JSONResponse(refusal, 413)(scope, receive, send)


def _replayed(body: bytes, receive: Any) -> Any:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return waiting.pop() if waiting else await receive()

    return again


class RequiredKey:
    """Lets requests pass that bring `Authorization: Bearer <key>`; the page and /health need none."""

    def __init__(self, app: Any, key: str) -> None:
        self.app, self.key = app, key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application, or answer 401."""
        header = dict(scope.get("headers", ())).get(b"authorization", b"")
        scheme, _, given = header.partition(b" ")
        known = scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.key)
        if scope["type"] != "http" or scope["path"] in _OPEN or known:
            await self.app(scope, receive, send)
            return
        refusal = error(
            "the API key is missing or wrong: send the header `Authorization: Bearer KEY`",
            code="invalid_api_key",
        )
        await JSONResponse(refusal, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)


def refusal(problem: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error of this package."""
    if isinstance(problem, FullError):
        return 429, error(str(problem), "rate_limit_error", "queue_full")
    if isinstance(problem, TimeoutError):
        return 504, error(
            "the answer took longer than this service allows (--timeout)", "server_error", "timeout"
        )
    return 400, error(str(problem))


def described(problems: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """A sentence on what a request has wrong, and the field; of several fields the first.

    Args:
        problems: as pydantic lists them, one for each kind of value that a field may have.
    """
    first = problems[0]
    parts = [part for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['ctx']['error']}, at character {parts[0]}", None
    if not parts:
        return "the body: expected a JSON object, and the header Content-Type: application/json", None
    field = str(parts[0])
    if field in UNAVAILABLE:
        return f"{field} is not available: leave it out", field
    # Alternatives of one value have its place, and then their type, which is written with brackets or alone.
    place = ".".join([field, *(str(part) for part in parts[1:] if not _is_type(part))])
    told = list(dict.fromkeys(each["msg"] for each in problems if field in map(str, each["loc"])))
    return f"{place}: {'; or: '.join(told[:2])}", field


def _is_type(part: object) -> bool:
    return isinstance(part, str) and (part in ("str", "int") or part.startswith("list["))


def answer_errors(app: FastAPI) -> None:
    """Give every error the body that OpenAI's clients read."""

    @app.exception_handler(TbtError)
    @app.exception_handler(TimeoutError)
    async def ours(_request: Request, problem: Exception) -> JSONResponse:
        status, body = refusal(problem)
        return JSONResponse(body, status, {"Retry-After": "1"} if status == 429 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, problem: RequestValidationError) -> JSONResponse:
        message, field = described(problem.errors())
        return JSONResponse(error(message, param=field), 400)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, problem: HTTPException) -> JSONResponse:
        return JSONResponse(error(str(problem.detail)), problem.status_code, problem.headers)

    @app.exception_handler(Exception)
    async def others(_request: Request, problem: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=problem)
        return JSONResponse(error("the service failed; its log says how", "server_error"), 500)
