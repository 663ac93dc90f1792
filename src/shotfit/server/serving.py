"""Serve a fitted model until a signal comes.

with listening("127.0.0.1", 8000, token=None) as place:
    serve_model(shotfit.load("shotfit-model"), place)
"""

from __future__ import annotations

from collections.abc import Callable

from shotfit.fitting.model import Model
from shotfit.server.api import prediction_app
from shotfit.server.limits import Limits
from shotfit.server.metrics import Metrics
from shotfit.server.running import Place, Stopping, run

__all__ = ["serve_model"]


def serve_model(
    model: Model,
    place: Place,
    token: str | None = None,
    limits: Limits | None = None,
    started: Callable[[], None] = lambda: None,
) -> int:
    """Answer requests with the model until SIGTERM or SIGINT; gives how many requests for predictions were answered.

    started: called once requests are taken.
    """
    limits, stopping, metrics = limits or Limits(), Stopping(), Metrics()
    run(prediction_app(model, limits, token, stopping, metrics), place, limits, stopping, started)
    return metrics.requests
