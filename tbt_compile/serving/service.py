"""The HTTP service: the routes of one model, /v1/models, /health, /metrics, and a page to try it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

import tbt_compile
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.serving.limits import BodyLimit, RequiredKey, answer_errors
from tbt_compile.serving.metrics import Counted
from tbt_compile.serving.settings import BYTES_OF_AUDIO, BYTES_OF_TEXT, ServiceSettings, check_name
from tbt_compile.serving.text_routes import TextRoutes
from tbt_compile.storage.checksums import ALL, Checks

_HERE = Path(__file__).parent


class Service:
    """One model behind HTTP; `app` is the ASGI application.

    Args:
        folder: a compiled folder with its tokenizer.
        settings: limits and name.
        num_threads: of a step; None: all CPUs.
        checks: what of the folder is checked first.

    Attributes:
        model: as loaded.
        routes: those of its kind: `TextRoutes`, or `SpeechRoutes` if it transcribes.

    Raises:
        FormatError: the folder cannot be read, or has no tokenizer.
        GenerationError: the model takes features other than those of speech.
    """

    def __init__(
        self,
        folder: Path,
        settings: ServiceSettings,
        num_threads: int | None = None,
        checks: Checks = ALL,
    ) -> None:
        self.settings = settings
        self.model = CompiledModel.load(
            folder, num_threads, check=checks.contents, public_key=checks.public_key
        )
        self.is_speech = self.model._speech is not None
        self.routes: Any
        if self.is_speech:
            from tbt_compile.serving.speech_routes import SpeechRoutes

            self.routes = SpeechRoutes(self.model, folder, settings)
        else:
            self.routes = TextRoutes(self.model, folder, settings)
        self.metrics = self.routes.metrics
        self.app = self._application()

    def close(self, finish: bool = True) -> None:
        """Write what was begun to its end, or not, and stop."""
        self.routes.close(finish)

    def _application(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            yield
            await asyncio.to_thread(self.close)

        app = FastAPI(
            title="tbt serve",
            version=tbt_compile.__version__,
            lifespan=lifespan,
            docs_url=None,  # these pages load their scripts from other machines
            redoc_url=None,
        )
        answer_errors(app)
        self.routes.add_to(app)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}", response_model=None)(self.one_model)
        app.get("/health")(self.health)
        app.head("/health", include_in_schema=False)(self.health)
        app.get("/metrics", response_class=Response)(self.read_metrics)
        app.get("/", response_class=HTMLResponse)(self.page)
        most = BYTES_OF_AUDIO if self.is_speech else BYTES_OF_TEXT
        app.add_middleware(BodyLimit, most=self.settings.most_bytes or most)
        if (
            self.settings.api_key is not None
        ):  # before a body is read: the last that is added is the outermost
            app.add_middleware(RequiredKey, key=self.settings.api_key)
        app.add_middleware(Counted, metrics=self.metrics)
        return app

    async def models(self) -> dict[str, Any]:
        """The model of this service."""
        return {"object": "list", "data": [self._described()]}

    async def one_model(self, name: str) -> Any:
        """The model of this service, by its name."""
        check_name(self.settings, name)
        return self._described()

    async def health(self) -> dict[str, Any]:
        """Whether the service works, and how busy it is."""
        return {"status": "ok", "running": self.metrics.busy.running, "waiting": self.metrics.busy.waiting}

    async def read_metrics(self) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self) -> HTMLResponse:
        """A page to try the model."""
        name = "speech_page.html" if self.is_speech else "page.html"
        return HTMLResponse((_HERE / name).read_text(encoding="utf-8"))

    def _described(self) -> dict[str, Any]:
        return {"id": self.settings.name, "object": "model", "created": 0, "owned_by": "tbt_compile"}
