"""The routes of a model that reads and writes text: completions, chat, translations."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tbt_compile.errors import ServingError, TbtError
from tbt_compile.runtime.batching import StoppedError
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.runtime.continuous import Engine
from tbt_compile.runtime.generation import GenerationSettings, Tokens
from tbt_compile.runtime.served_model import ServedModel
from tbt_compile.serving.answers import Answer, event
from tbt_compile.serving.limits import refusal
from tbt_compile.serving.metrics import Metrics
from tbt_compile.serving.outputs import Doorbell, Outputs
from tbt_compile.serving.schema import ChatRequest, CompletionRequest, Sampled, TranslateRequest
from tbt_compile.serving.settings import ServiceSettings, check_name
from tbt_compile.serving.tokenizing import ServedTokenizer
from tbt_compile.serving.turns import Turns, unless_gone


class TextRoutes:
    """Routes that share one engine.

    Args:
        model: a compiled model that takes token ids.
        folder: its folder, with the tokenizer.
        settings: of the service.

    Raises:
        FormatError: the folder has no tokenizer.
        GenerationError: the model takes features.
    """

    def __init__(self, model: CompiledModel, folder: Path, settings: ServiceSettings) -> None:
        self.model, self.folder, self.settings = model, folder, settings
        model.keep_prompts(settings.prompt_bytes if model.can_keep_prompts else 0)
        self._served = ServedModel(model)
        self._sources = model._limits.source.vocabulary
        self.tokenizer = ServedTokenizer(folder, model._settings.eos_token_id)
        self.engine = Engine(self._served, settings.most_rows, settings.most_waiting)
        self.metrics = Metrics(self.engine, model.prompts)
        self._translating = Turns(settings.most_waiting, settings.timeout)
        self._bell: Doorbell | None = None

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.post("/v1/completions", response_model=None)(self.completions)
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        if self._served.has_encoder:
            app.post("/translate")(self.translate)
        app.post("/v1/audio/transcriptions", include_in_schema=False)(self.no_audio)

    def close(self, finish: bool) -> None:
        """Write what was begun to its end, or not, and stop."""
        self.engine.stop(finish, timeout=self.settings.timeout)

    async def no_audio(self) -> None:
        """Refuse audio."""
        raise ServingError(
            f"{self.settings.name!r} reads text, not audio: use /v1/completions, or serve a Whisper model"
        )

    async def completions(self, http: Request, request: CompletionRequest) -> Response:
        """Continue prompts; a sequence-to-sequence model answers sources."""
        prompts = await asyncio.to_thread(self._all_ids, request.prompts())
        return await self._answer(http, request, prompts, request.max_tokens, chat=False)

    async def chat(self, http: Request, request: ChatRequest) -> Response:
        """Answer a conversation, by the model's chat template."""
        messages = [message.plain() for message in request.messages]
        ids = self._checked(await asyncio.to_thread(self.tokenizer.chat, messages))
        most = request.max_completion_tokens or request.max_tokens
        if most is None and self.model._settings.max_new_tokens is None:
            # Neither request nor model says: OpenAI's default is what the model has room for.
            longest = self._served.longest
            most = None if longest is None else max(1, longest + 1 - len(ids))
        return await self._answer(http, request, [ids], most, chat=True)

    async def translate(self, request: TranslateRequest) -> dict[str, Any]:
        """Texts through an encoder-decoder, by the search of its generation config or with beams."""
        sources = await asyncio.to_thread(self._all_ids, request.texts)
        chosen = {name: value for name, value in request.model_dump().items() if name != "texts" and value}
        rows = await self._translating.take(lambda stop: self._translated(sources, chosen, stop))
        self.metrics.prompt_tokens.inc(sum(map(len, sources)))
        self.metrics.new_tokens.inc(sum(len(row) - 1 for row in rows))
        return {"texts": [self.tokenizer.decode(row.tolist()) for row in rows]}

    def _translated(
        self, sources: Sequence[list[int]], chosen: dict[str, Any], stop: threading.Event
    ) -> list[Tokens]:
        """The outputs of sources; between two batches it is asked whether somebody still waits."""

        def go_on(_done: int, _all: int) -> None:
            if stop.is_set():
                raise StoppedError

        return self.model.generate_many(sources, progress=go_on, **chosen)

    def _doorbell(self) -> Doorbell:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._bell is None or self._bell.loop is not loop:
            self._bell = Doorbell(loop)
        return self._bell

    def _all_ids(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids of texts. Long ones take time: not for the event loop."""
        keep_end = self._served.has_encoder
        return [
            self._checked(self.tokenizer.encode(prompt, keep_end) if isinstance(prompt, str) else prompt)
            for prompt in prompts
        ]

    def _checked(self, ids: list[int]) -> list[int]:
        """Check a prompt.

        Raises:
            ServingError: it is empty or too long, or holds tokens that there are not.
        """
        if not ids:
            raise ServingError("the prompt is empty: expected at least one token")
        size = self._sources
        if min(ids) < 0 or max(ids) >= size:
            wrong = next(token for token in ids if not 0 <= token < size)
            raise ServingError(f"prompt: token {wrong}: expected ids from 0 to {size - 1}")
        if len(ids) > self.settings.most_tokens:
            raise ServingError(
                f"a prompt of {len(ids)} tokens: this service takes at most {self.settings.most_tokens}, "
                "which `tbt serve --max-tokens` sets"
            )
        return ids

    def _check_room(self, prompts: Sequence[list[int]], settings: GenerationSettings) -> None:
        """Check that the positions of the model suffice for prompts and new tokens.

        Raises:
            ServingError: they do not.
        """
        longest, most = self._served.longest, settings.max_new_tokens
        if longest is None or most is None:
            return
        prompt = 1 if self._served.has_encoder else max(map(len, prompts))  # 1: the decoder's first token
        if prompt + most - 1 > longest:
            before = "" if self._served.has_encoder else f"a prompt of {prompt} tokens and "
            raise ServingError(
                f"{before}max_tokens={most} are more than the model's {longest} positions: lower max_tokens"
                + ("" if self._served.has_encoder else ", or shorten the prompt")
            )

    async def _answer(
        self,
        http: Request,
        request: Sampled,
        prompts: Sequence[list[int]],
        most: int | None,
        *,
        chat: bool,
    ) -> Response:
        check_name(self.settings, request.model)
        request.check_tokens(self._served.vocabulary)
        settings = self.model._settings.replace(**request.changes(self.model.description["sampling"], most))
        self._check_room(prompts, settings)
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
        return await unless_gone(http, self._whole(outputs, answer, start))

    async def _whole(self, outputs: Outputs, answer: Answer, start: float) -> Response:
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
