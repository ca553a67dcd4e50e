"""What the server counts, in Prometheus's format."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwen3_rag.models.engine.work import Work
from qwen3_rag.server.queue import Queue

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# Twice the lines, and nothing reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]
Works = Callable[[], Mapping[str, Work]]


class Metrics:
    """The counters of one server.

    Args:
        queue: The requests at the models.
        works: Returns the batches of each model so far.
    """

    def __init__(self, queue: Queue, works: Works) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("qwen3_rag_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "qwen3_rag_request_seconds", "Time from a request's arrival to its response.", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.stages = Histogram(
            "qwen3_rag_stage_seconds", "Time of a stage: waiting for a thread, a model, a search's parts.", ["stage"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.texts = Counter("qwen3_rag_texts", "Texts embedded or scored.", ["model"], registry=self.registry)
        self.tokens = Counter("qwen3_rag_tokens", "Tokens embedded or scored.", ["model"], registry=self.registry)
        self.cut = Counter("qwen3_rag_cut_texts", "Texts that were truncated.", ["model"], registry=self.registry)
        self.gone = Counter("qwen3_rag_vanished_clients", "Clients that left first.", registry=self.registry)
        self.registry.register(_State(queue, works))

    def text(self) -> bytes:
        """All of them, as Prometheus reads it."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is read from the queue and the engines when asked."""

    def __init__(self, queue: Queue, works: Works) -> None:
        self.queue, self.works = queue, works

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        yield GaugeMetricFamily("qwen3_rag_queue_requests", "Requests at the models.", value=self.queue.size)
        yield GaugeMetricFamily("qwen3_rag_queue_limit", "Most requests at the models.", value=self.queue.limit)
        yield CounterMetricFamily("qwen3_rag_refused", "Requests refused with 429.", value=self.queue.refused)
        batches = CounterMetricFamily("qwen3_rag_batches", "Batches run.", labels=["model"])
        read = CounterMetricFamily("qwen3_rag_batch_tokens", "Tokens of the batches.", labels=["model"])
        capacity = CounterMetricFamily("qwen3_rag_batch_capacity", "Tokens that fit the batches.", labels=["model"])
        for name, work in self.works().items():
            batches.add_metric([name], work.batches)
            read.add_metric([name], work.tokens)
            capacity.add_metric([name], work.capacity)
        yield from (batches, read, capacity)
