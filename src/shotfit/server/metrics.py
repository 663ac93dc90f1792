"""What the server counts, in the text format of Prometheus.

metrics = Metrics()
metrics.answered(200, seconds=0.02)
print(metrics.text().decode())
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PICTURES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counts of one server."""

    def __init__(self) -> None:
        self.requests = 0
        """How many requests for predictions were answered, whatever the status."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = self.registry
        self._requests = Counter("shotfit_requests", "Requests for predictions.", ["status"], registry=own)
        self._seconds = Histogram(
            "shotfit_request_seconds", "From a request's head to its answer.", buckets=SECONDS, registry=own
        )
        self._pictures = Counter("shotfit_pictures", "Pictures that were answered.", ["outcome"], registry=own)
        self._read, self._broken = (self._pictures.labels(outcome) for outcome in ("predicted", "broken"))
        self._batches = Histogram(
            "shotfit_batch_pictures", "Pictures that ran together.", buckets=PICTURES, registry=own
        )
        self._model = Counter("shotfit_model_seconds", "Seconds that the model ran.", registry=own)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def answered(self, status: int, seconds: float, pictures: int = 0, broken: int = 0) -> None:
        """A request for predictions was answered."""
        self.requests += 1
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)
        self._read.inc(pictures - broken)
        self._broken.inc(broken)

    def ran(self, pictures: int, seconds: float) -> None:
        """A batch ran."""
        self._batches.observe(pictures)
        self._model.inc(seconds)

    def text(self) -> bytes:
        """All counts."""
        return generate_latest(self.registry)
