"""Numbers about the service, in the text format that Prometheus reads."""

from __future__ import annotations

import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One registry for one application. Labels hold route templates and reasons, never what a client sent."""

    def __init__(self):
        self.registry = CollectorRegistry()
        PlatformCollector(self.registry, platform)
        ProcessCollector(registry=self.registry)  # resident memory, CPU seconds, open files
        self.requests = Counter("semid_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("semid_request_seconds", "From the request to the last byte of the answer", ["route"],
                                 buckets=SECONDS, registry=self.registry)
        self.refused = Counter("semid_refused", "Requests refused before any work", ["reason"], registry=self.registry)
        self.under_way = Gauge("semid_requests_under_way", "Requests that are being answered", registry=self.registry)
        self.batches = Histogram("semid_batch_questions", "Questions decoded together", buckets=BATCHES, registry=self.registry)
        self.events = Counter("semid_events", "Events acknowledged", ["outcome"], registry=self.registry)
        self.changes = Counter("semid_changes", "Changes of catalogue or model", ["kind", "outcome"], registry=self.registry)
        self.items = Gauge("semid_items", "Items in the catalogue", registry=self.registry)
        self.version = Gauge("semid_snapshot_version", "Version of catalogue and model that answers", registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
