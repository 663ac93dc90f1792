"""The prediction API: one model, asked over HTTP.

    app = prediction_app(model, Limits(), token)        # an ASGI application

    POST /v1/predict        pictures in the field `files`, and the fields of questions.py
    GET  /v1/model          what the model is and can do
    GET  /health /ready     whether the process lives, and whether it takes requests
    GET  /metrics           counts, for Prometheus
    GET  /openapi.json /docs

Pictures come in the body alone: no address is fetched, and no other model is opened. The routes of probes and of the
documentation, which say nothing of the model, need no token.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fastapi
from fastapi import FastAPI, Request, Response

import shotfit
from shotfit.data.pictures import Picture
from shotfit.fitting.model import Model
from shotfit.fitting.predict import as_object
from shotfit.printing import as_json
from shotfit.report.page import named_place
from shotfit.server.batching import Answered, Batches
from shotfit.server.bodies import read_form
from shotfit.server.documentation import ERRORS, PREDICT, page
from shotfit.server.guard import Guard
from shotfit.server.limits import Held, Limits, RefusedError
from shotfit.server.metrics import CONTENT_TYPE_LATEST, Metrics
from shotfit.server.questions import question
from shotfit.server.running import Stopping

__all__ = ["OPEN_PATHS", "prediction_app"]

OPEN_PATHS = ("/", "/docs", "/openapi.json", "/health", "/ready")


def prediction_app(
    model: Model,
    limits: Limits | None = None,
    token: str | None = None,
    stopping: Stopping | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """The application that answers with the model. token: None answers everybody of this machine.

    stopping: tells that the server ends, and is not ready any more.
    """
    limits, stopping, metrics = limits or Limits(), stopping or Stopping(), metrics or Metrics()
    batches = Batches(model, limits, metrics)
    requests = Held(limits.requests, f"{limits.requests:,} requests are being served")
    held = Held(limits.held, "the requests that are being served fill its memory")
    metrics.watch("shotfit_waiting_pictures", "Pictures that wait or are worked on.", lambda: batches.waiting.now)
    metrics.watch("shotfit_open_requests", "Requests for predictions that are being served.", lambda: requests.now)
    metrics.watch("shotfit_held_bytes", "Bytes of bodies that are held.", lambda: held.now)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batches.start()
        yield
        batches.close()

    app = FastAPI(
        title="shotfit",
        version=shotfit.__version__,
        description="Classifies pictures with a fitted model.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.post("/v1/predict", summary="Classify pictures", openapi_extra=PREDICT, responses=ERRORS)
    async def predict(request: Request) -> Response:
        """The most probable classes of each picture, in the order in which the pictures were sent.

        A picture that cannot be read has an `error` in place of predictions, and the others are answered. The status is
        413 where all pictures of a request are too large to be decoded.
        """
        begun, status, answers = time.perf_counter(), 500, list[Answered]()
        try:
            with requests.taken():
                async with read_form(request.scope, request.receive, limits, held) as form:
                    asked = question(form.fields, limits.classes)
                    pictures = [Picture(None, held=content, name=name) for name, content in form.files]
                    answers = await batches.predict(pictures, asked)
            too_large = all(one.too_large for one in answers)
            status = 413 if too_large else 200
            found: dict[str, Any] = {"predictions": [as_object(one.prediction) for one in answers]}
            if too_large:
                found = {"detail": str(answers[0].prediction.error)} | found
            body = as_json(found).encode("utf-8", "backslashreplace")
            return Response(body, status, media_type="application/json")
        except RefusedError as error:
            status = error.status
            raise
        finally:
            broken = sum(one.prediction.error is not None for one in answers)
            metrics.answered(status, time.perf_counter() - begun, len(answers), broken)

    @app.get("/v1/model", summary="What the model is", responses=ERRORS)
    async def about() -> dict[str, Any]:
        """Its method, backbone, tasks and classes, and which fields a request may have."""
        return described(model, limits)

    @app.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        """Always 200."""
        return {"status": "ok"}

    @app.get("/ready", summary="Whether requests are taken")
    async def ready(response: Response) -> dict[str, str]:
        """200, or 503 while the server ends or too many pictures wait."""
        why = (
            "ending"
            if stopping.asked or not batches.works
            else "busy"
            if batches.waiting.now >= limits.queue or requests.now >= limits.requests
            else "ready"
        )
        response.status_code = 200 if why == "ready" else 503
        return {"status": why}

    @app.get("/metrics", summary="Counts, for Prometheus", response_class=fastapi.responses.PlainTextResponse)
    async def counts() -> Response:
        """In Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return page(app.openapi())

    for status in (404, 405):
        app.add_exception_handler(status, _no_route)
    app.add_middleware(Guard, token=token, open_paths=OPEN_PATHS)
    return app


async def _no_route(request: Request, error: Any) -> Response:
    """For what FastAPI itself refuses: its sentence is three words long, and its error has the status and headers."""
    asked = f"{request.method} {request.url.path[:100]}"
    body = as_json({"detail": f"There is nothing at {asked}: /docs says what there is."})
    return Response(body.encode("utf-8", "backslashreplace"), error.status_code, error.headers, "application/json")


def described(model: Model, limits: Limits) -> dict[str, Any]:
    """What a client wants to know of the model; nothing of the machine."""
    record, backbone = model.record, model.frozen.backbone
    trust = model.trust is not None and len(model.trust) > 0
    return {
        "method": record["method"],
        "backbone": {"name": named_place(record["backbone"]["name"]), "fingerprint": backbone.fingerprint},
        "precision": backbone.precision,
        "tasks": [{"name": own.task, "classes": list(own.names)} for own in model.classes],
        "fields": {
            "coverage": trust,
            "unknown": trust,
            "classes": model.method.accepts_new_classes,
            "task": len(model.classes) > 1 or model.method.accepts_new_classes,
        },
        "limits": {"body_bytes": limits.body, "files": limits.files, "classes": limits.classes},
        "shotfit": shotfit.__version__,
    }
