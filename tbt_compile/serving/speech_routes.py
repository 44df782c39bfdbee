"""The route of a model that transcribes: OpenAI's /v1/audio/transcriptions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import python_multipart  # noqa: F401  (FastAPI reads forms with it)
import soundfile  # noqa: F401  (missing ones are named before the service starts)
import soxr  # noqa: F401
from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from tbt_compile.errors import ServingError
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.serving.metrics import Metrics
from tbt_compile.serving.settings import ServiceSettings, check_name
from tbt_compile.serving.transcriber import Transcriber
from tbt_compile.serving.transcripts import Transcript
from tbt_compile.serving.turns import Turns, unless_gone

TRANSCRIPTIONS = "/v1/audio/transcriptions"
_TIMED = ("verbose_json", "srt", "vtt")
_TEXT_PATHS = ("/v1/completions", "/v1/chat/completions", "/translate")


class TranscriptionRequest(BaseModel):
    """POST /v1/audio/transcriptions, a form; what cannot be done is refused by name."""

    model_config = ConfigDict(extra="forbid")
    file: UploadFile
    model: str | None = None
    language: str | None = None
    prompt: Annotated[str | None, Field(max_length=10_000)] = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0
    granularities: Annotated[
        list[Literal["segment"]] | None, Field(alias="timestamp_granularities[]", max_length=1)
    ] = None
    stream: bool = False

    def check(self) -> None:
        """Check what a model that searches greedily can do.

        Raises:
            ServingError: the request asks for samples, or for timestamps that its format does not have,
                or a stream.
        """
        if self.temperature:
            raise ServingError("temperature: speech is transcribed without sampling; use 0, or leave it out")
        if self.stream:
            raise ServingError("stream: a transcript comes whole; use false, or leave it out")
        if self.granularities and self.response_format != "verbose_json":
            raise ServingError("timestamp_granularities: expected response_format verbose_json with it")


class SpeechRoutes:
    """Routes of a model that transcribes, one recording at a time.

    Args:
        model: a compiled Whisper model.
        folder: its folder, with tokenizer and feature extractor.
        settings: of the service.

    Raises:
        FormatError: the folder has no tokenizer or feature extractor.
    """

    def __init__(self, model: CompiledModel, folder: Path, settings: ServiceSettings) -> None:
        self.settings = settings
        self.transcriber = Transcriber(model, folder, settings.most_seconds)
        self.turns = Turns(settings.most_waiting, settings.timeout)
        self.metrics = Metrics(self.turns)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.post(TRANSCRIPTIONS, response_model=None)(self.transcriptions)
        for path in _TEXT_PATHS:
            app.post(path, include_in_schema=False)(self.no_text)

    def close(self, finish: bool) -> None:
        """Nothing is left: requests end before their service does."""

    async def no_text(self) -> None:
        """Refuse text."""
        raise ServingError(
            f"{self.settings.name!r} transcribes speech, and reads no text: use {TRANSCRIPTIONS}"
        )

    async def transcriptions(
        self, http: Request, request: Annotated[TranscriptionRequest, Form()]
    ) -> Response:
        """Transcribe a recording in WAV, FLAC, Ogg or MP3."""
        check_name(self.settings, request.model)
        request.check()
        return await unless_gone(http, self._answer(request, await request.file.read()))

    async def _answer(self, request: TranscriptionRequest, data: bytes) -> Response:
        start, timed = time.perf_counter(), request.response_format in _TIMED
        found = await self.turns.take(
            lambda stop: self.transcriber.transcribe(
                data, request.language or None, request.prompt or None, timed, stop
            )
        )
        self.metrics.new_tokens.inc(sum(len(segment.tokens) for segment in found.segments))
        self.metrics.whole.observe(time.perf_counter() - start)
        return _formed(found, request.response_format)


def _formed(found: Transcript, form: str) -> Response:
    if form == "text":
        return PlainTextResponse(found.text + "\n")
    if form in ("srt", "vtt"):
        return PlainTextResponse(found.srt() if form == "srt" else found.vtt())
    return JSONResponse(found.plain() if form == "json" else found.verbose())
