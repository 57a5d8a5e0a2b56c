"""What Prometheus reads at /metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vqlm.serve.engine import Load

BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """Counters of one server; `load` is asked when they are read."""

    def __init__(self, load: Callable[[], Load]):
        self._registry = CollectorRegistry()
        self.requests = Counter("vqlm_requests", "Answers", ["endpoint", "status"], registry=self._registry)
        self.pictures = Counter("vqlm_pictures", "Pictures drawn", ["model"], registry=self._registry)
        self.disconnects = Counter("vqlm_disconnects", "Clients that left early", registry=self._registry)
        self.seconds = Histogram(
            "vqlm_request_seconds", "Time of a drawn request", ["endpoint"], buckets=BUCKETS, registry=self._registry
        )
        for name, text in (
            ("queued_requests", "Requests that wait for slots"),
            ("running_requests", "Requests that are drawn"),
            ("used_slots", "Rows of the KV cache in use"),
        ):
            gauge = Gauge(f"vqlm_{name}", text, registry=self._registry)
            gauge.set_function(lambda name=name: getattr(load(), name))

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
