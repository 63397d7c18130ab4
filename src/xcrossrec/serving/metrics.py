"""The metrics of a service, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from xcrossrec._version import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (0.001, 0.0025, *_SECONDS)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one service; read by :meth:`text`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        of_model: dict[str, Any] = {"labelnames": ("model",), **own}
        self.requests = Counter("xcrossrec_requests", "Answered requests.", ("method", "route", "status"), **own)
        whole = "From a request's first byte to its answer."
        self.seconds = Histogram("xcrossrec_request_seconds", whole, ("route",), buckets=_SECONDS, **own)
        self.in_flight = Gauge("xcrossrec_requests_in_flight", "Requests without an answer yet.", **own)
        self.connections = Gauge("xcrossrec_connections", "Open connections.", **own)
        self.ended = Counter("xcrossrec_connections_ended", "Connections that the server ended.", ("reason",), **own)
        twice = "Requests looked up together; one with new titles comes twice."
        self.batch = Histogram("xcrossrec_batch_size", twice, buckets=_SIZES, **of_model)
        wait = "What a batch's requests waited for it."
        self.waited = Histogram("xcrossrec_queue_seconds", wait, buckets=_WAITS, **of_model)
        self.encoded = Counter("xcrossrec_encoded_texts", "Texts that requests had encoded.", **of_model)
        known = "Texts that were not encoded, because they had been."
        self.recalled = Counter("xcrossrec_remembered_texts", known, **of_model)
        self.written = Counter("xcrossrec_items_written", "Items written to a catalogue.", **of_model)
        self.deleted = Counter("xcrossrec_items_deleted", "Items deleted from a catalogue.", **of_model)
        self.added = Counter("xcrossrec_purchases_added", "Purchases added to a catalogue.", **of_model)
        self.forgotten = Counter("xcrossrec_purchases_deleted", "Purchases of forgotten customers.", **of_model)
        self.reloads = Counter("xcrossrec_reloads", "Replacements of a model.", ("model", "result"), **own)
        self.waiting = Gauge("xcrossrec_queue_length", "Requests that wait for a model.", **of_model)
        self.texts_waiting = Gauge("xcrossrec_texts_waiting", "Texts that wait to be encoded.", **of_model)
        self.items = Gauge("xcrossrec_catalogue_items", "Items of a model's catalogue.", **of_model)
        self.version = Gauge("xcrossrec_catalogue_version", "Grows with every write to a catalogue.", **of_model)
        self.ready = Gauge("xcrossrec_ready", "1 while the service takes requests.", **own)
        version = Gauge("xcrossrec_build_info", "The release.", ("version",), **own)
        version.labels(__version__).set(1)

    def start_at_zero(self, model: str) -> None:
        """Show a model's counters before their first event: Prometheus misses it in one that appears with 1."""
        for counter in (self.written, self.deleted, self.added, self.forgotten):
            counter.labels(model)
        for result in ("done", "failed"):
            self.reloads.labels(model, result)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def observe_batch(self, model: str, size: int, waited: Sequence[float]) -> None:
        """Count one batch of a model's questions, which had waited so many seconds."""
        self.batch.labels(model).observe(size)
        for seconds in waited:
            self.waited.labels(model).observe(seconds)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
