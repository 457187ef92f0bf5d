"""Metrics of the service for Prometheus; several processes of one service are added up."""

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # of the client library: where several processes keep their metrics
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What is counted in one process."""

    def __init__(self) -> None:
        self._own = own = CollectorRegistry()
        self.latency = Histogram(
            "linguarec_request_seconds", "Seconds of a request", ["route"], buckets=_SECONDS, registry=own
        )
        self.requests = Counter("linguarec_requests", "Requests by route and status", ["route", "status"], registry=own)
        self.errors = Counter("linguarec_errors", "Requests that ended in an error, by kind", ["kind"], registry=own)
        self.batches = Histogram(
            "linguarec_batch_requests", "Requests of a batch", ["call"], buckets=_SIZES, registry=own
        )
        self.running = Gauge(
            "linguarec_running_requests", "Requests that run now", registry=own, multiprocess_mode="livesum"
        )
        self.items = Gauge(
            "linguarec_catalogue_items", "Items that can be recommended", registry=own, multiprocess_mode="livemax"
        )
        self.sequence = Gauge(
            "linguarec_sequence",
            "Number of the last live change that is served",
            registry=own,
            multiprocess_mode="livemin",
        )
        self.lag = Gauge(
            "linguarec_state_lag_seconds", "Seconds since the state was read", registry=own, multiprocess_mode="livemax"
        )
        self.left_out = Gauge(
            "linguarec_left_out_items",
            "Items of the state that the run cannot take",
            registry=own,
            multiprocess_mode="livemax",
        )
        self.reloads = Counter("linguarec_reloads", "Reloads by result", ["result"], registry=own)
        self._of_route: dict[str, Callable[[float], None]] = {}
        self._of_status: dict[tuple[str, int], Callable[[], None]] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        observe = self._of_route.get(route)
        if observe is None:
            observe = self._of_route[route] = self.latency.labels(route).observe
        observe(seconds)
        count = self._of_status.get((route, status))
        if count is None:
            count = self._of_status[route, status] = self.requests.labels(route, str(status)).inc
        count()

    def text(self) -> bytes:
        """All metrics in the text format."""
        if SHARED_FOLDER not in os.environ:
            return bytes(generate_latest(self._own))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return bytes(generate_latest(together))
