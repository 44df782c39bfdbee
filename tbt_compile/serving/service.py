"""The HTTP service: OpenAI's routes, /translate, /health, /metrics, and a page to try it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

import tbt_compile
from tbt_compile.errors import ServingError, TbtError
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.runtime.continuous import Engine
from tbt_compile.runtime.served_model import ServedModel
from tbt_compile.serving.answers import Answer, event
from tbt_compile.serving.limits import BodyLimit, RequiredKey, answer_errors, refusal
from tbt_compile.serving.metrics import Counted, Metrics
from tbt_compile.serving.outputs import Doorbell, Outputs
from tbt_compile.serving.schema import ChatRequest, CompletionRequest, Sampled, TranslateRequest
from tbt_compile.serving.tokenizing import ServedTokenizer
from tbt_compile.storage.checksums import ALL, Checks

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class ServiceSettings:
    """Limits of a service.

    Attributes:
        name: of the model, as clients see it.
        most_rows: outputs that are written at a time.
        most_waiting: outputs that may wait; a request beyond is answered 429.
        most_bytes: of a request's body; a larger one is answered 413.
        most_tokens: of a prompt or source; attention over a long source takes memory by its square.
        timeout: seconds that an answer may take; then it is 504, or a stream ends in an error.
        api_key: that requests have to bring; None: none.
    """

    name: str = "model"
    most_rows: int = 16
    most_waiting: int = 256
    most_bytes: int = 2**20
    most_tokens: int = 4096
    timeout: float = 300.0
    api_key: str | None = None


class Service:
    """One model behind HTTP; `app` is the ASGI application.

    Args:
        folder: a compiled folder with its tokenizer.
        settings: limits and name.
        num_threads: of a step; None: all CPUs.
        checks: what of the folder is checked first.

    Raises:
        FormatError: the folder cannot be read, or has no tokenizer.
        GenerationError: the model takes features.
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
        self._served = ServedModel(self.model)
        self.tokenizer = ServedTokenizer(folder, self.model._settings.eos_token_id)
        self.engine = Engine(self._served, settings.most_rows, settings.most_waiting)
        self.metrics = Metrics(self.engine)
        self._translating = asyncio.Semaphore(1)
        self._bell: Doorbell | None = None
        self.app = self._application()

    def close(self, finish: bool = True) -> None:
        """Write what was begun to its end, or not, and stop."""
        self.engine.stop(finish, timeout=self.settings.timeout)

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
        app.post("/v1/completions", response_model=None)(self.completions)
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}", response_model=None)(self.one_model)
        if self._served.has_encoder:
            app.post("/translate")(self.translate)
        app.get("/health")(self.health)
        app.get("/metrics", response_class=Response)(self.read_metrics)
        app.get("/", response_class=HTMLResponse)(self.page)
        if self.settings.api_key is not None:  # the last that is added is the outermost
            app.add_middleware(RequiredKey, key=self.settings.api_key)
        app.add_middleware(Counted, metrics=self.metrics)
        app.add_middleware(BodyLimit, most=self.settings.most_bytes)
        return app

    async def completions(self, request: CompletionRequest) -> Response:
        """Continue prompts; a sequence-to-sequence model answers sources."""
        prompts = await asyncio.to_thread(self._all_ids, request.prompts())
        return await self._answer(request, prompts, request.max_tokens, chat=False)

    async def chat(self, request: ChatRequest) -> Response:
        """Answer a conversation, by the model's chat template."""
        messages = [message.plain() for message in request.messages]
        ids = self._checked(await asyncio.to_thread(self.tokenizer.chat, messages))
        most = request.max_completion_tokens or request.max_tokens
        if most is None:  # OpenAI's default is what the model has room for
            longest = self._served.longest
            most = None if longest is None else max(1, longest + 1 - len(ids))
        return await self._answer(request, [ids], most, chat=True)

    async def models(self) -> dict[str, Any]:
        """The model of this service."""
        return {"object": "list", "data": [self._described()]}

    async def one_model(self, name: str) -> Any:
        """The model of this service, by its name."""
        self._check_name(name)
        return self._described()

    async def translate(self, request: TranslateRequest) -> dict[str, Any]:
        """Texts through an encoder-decoder, by the search of its generation config or with beams."""
        sources = await asyncio.to_thread(self._all_ids, request.texts)
        chosen = {name: value for name, value in request.model_dump().items() if name != "texts" and value}
        async with self._translating:
            rows = await asyncio.to_thread(self.model.generate_many, sources, **chosen)
        self.metrics.prompt_tokens.inc(sum(map(len, sources)))
        self.metrics.new_tokens.inc(sum(len(row) - 1 for row in rows))
        return {"texts": [self.tokenizer.decode(row.tolist()) for row in rows]}

    async def health(self) -> dict[str, Any]:
        """Whether the service works, and how busy it is."""
        return {"status": "ok", "running": self.engine.running, "waiting": self.engine.waiting}

    async def read_metrics(self) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self) -> HTMLResponse:
        """A page to type a text and see its output."""
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    def _described(self) -> dict[str, Any]:
        return {"id": self.settings.name, "object": "model", "created": 0, "owned_by": "tbt_compile"}

    def _doorbell(self) -> Doorbell:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._bell is None or self._bell.loop is not loop:
            self._bell = Doorbell(loop)
        return self._bell

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self.settings.name):
            raise HTTPException(
                404, f"the model {name!r} does not exist: this service has {self.settings.name!r}"
            )

    def _all_ids(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids of texts. Long ones take time: not for the event loop."""
        keep_end = self._served.has_encoder
        return [
            self._checked(self.tokenizer.encode(prompt, keep_end) if isinstance(prompt, str) else prompt)
            for prompt in prompts
        ]

    def _checked(self, ids: list[int]) -> list[int]:
        if len(ids) > self.settings.most_tokens:
            raise ServingError(
                f"a prompt of {len(ids)} tokens: this service takes at most {self.settings.most_tokens}"
            )
        return ids

    async def _answer(
        self, request: Sampled, prompts: Sequence[list[int]], most: int | None, *, chat: bool
    ) -> Response:
        self._check_name(request.model)
        settings = self.model._settings.replace(**request.changes(self.model.description["sampling"], most))
        start = time.perf_counter()
        outputs = Outputs(
            self.engine,
            self._doorbell(),
            self.tokenizer.tokenizer,
            prompts,
            request.n or 1,
            settings,
            request.stops,
            self.settings.timeout,
        )
        answer = Answer(self.settings.name, chat, sum(map(len, prompts)))
        self.metrics.prompt_tokens.inc(answer.prompt_tokens)
        if request.stream:
            usage = request.stream_options is not None and request.stream_options.include_usage
            return StreamingResponse(
                self._streamed(outputs, answer, start, usage), media_type="text/event-stream"
            )
        finish = [""] * len(outputs.texts)
        async for piece in outputs:
            self._count(answer, piece.tokens, start)
            finish[piece.choice] = piece.finish or finish[piece.choice]
        self.metrics.whole.observe(time.perf_counter() - start)
        return JSONResponse(answer.whole([text.text for text in outputs.texts], finish))

    async def _streamed(
        self, outputs: Outputs, answer: Answer, start: float, usage: bool
    ) -> AsyncIterator[str]:
        begun: set[int] = set()
        try:
            async for piece in outputs:
                self._count(answer, piece.tokens, start)
                if piece.text or piece.finish or piece.choice not in begun:
                    first = piece.choice not in begun
                    begun.add(piece.choice)
                    yield event(answer.chunk(piece.choice, piece.text, piece.finish, first))
            if usage:
                yield event(answer.last())
            self.metrics.whole.observe(time.perf_counter() - start)
        except (TbtError, TimeoutError) as problem:  # the status was sent with the first event
            yield event(refusal(problem)[1])
        finally:
            outputs.cancel()
        yield event("[DONE]")

    def _count(self, answer: Answer, tokens: int, start: float) -> None:
        if tokens and not answer.new_tokens:
            self.metrics.first.observe(time.perf_counter() - start)
        answer.new_tokens += tokens
        self.metrics.new_tokens.inc(tokens)
