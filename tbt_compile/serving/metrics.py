"""What a service counts, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tbt_compile.runtime.prompt_cache import PromptCache

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Busy(Protocol):
    """What does the work of a service."""

    @property
    def waiting(self) -> int:
        """Outputs that wait."""

    @property
    def running(self) -> int:
        """Outputs that are being written."""


class Metrics:
    """Counters of one service.

    Args:
        busy: is asked when the metrics are read.
        prompts: that are kept, or None.
    """

    def __init__(self, busy: Busy, prompts: PromptCache | None = None) -> None:
        self.busy = busy
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tbt_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.prompt_tokens = Counter("tbt_prompt_tokens", "Tokens of prompts and sources", registry=registry)
        self.new_tokens = Counter("tbt_new_tokens", "Tokens written", registry=registry)
        self.first = Histogram(
            "tbt_first_token_seconds", "Until the first token", buckets=_SECONDS, registry=registry
        )
        self.whole = Histogram(
            "tbt_request_seconds", "Until the answer is whole", buckets=_SECONDS, registry=registry
        )
        waiting = Gauge("tbt_waiting_outputs", "Outputs that wait for a row", registry=registry)
        running = Gauge("tbt_running_outputs", "Outputs that are being written", registry=registry)
        waiting.set_function(lambda: busy.waiting)
        running.set_function(lambda: busy.running)
        if prompts is not None:
            registry.register(_KeptPrompts(prompts))

    def text(self) -> bytes:
        """All values, as a scrape reads them."""
        return generate_latest(self._registry)


class _KeptPrompts(Collector):
    """What a cache of prompts counts itself."""

    def __init__(self, prompts: PromptCache) -> None:
        self._prompts = prompts

    def collect(self) -> Iterator[Metric]:
        """Its counters and its size, as they are now."""
        kept = self._prompts
        yield CounterMetricFamily("tbt_prompt_cache_lookups", "Prompts looked up", value=kept.prompts)
        yield CounterMetricFamily("tbt_prompt_cache_hits", "Prompts that were kept in part", value=kept.hits)
        yield CounterMetricFamily("tbt_prompt_cache_tokens", "Tokens not read anew", value=kept.reused)
        yield GaugeMetricFamily("tbt_prompt_cache_bytes", "Bytes of kept prompts", value=kept.bytes)


class Counted:
    """Counts requests by route and status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application, and count what it answers."""

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, counting if scope["type"] == "http" else send)
