"""The page that documents the API, made from its OpenAPI description: no script, and nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2
from fastapi import Response

from shotfit.server.bodies import FILES
from shotfit.server.questions import FIELDS

__all__ = ["ERRORS", "PREDICT", "page"]

_TYPES: dict[str, dict[str, Any]] = {
    "top": {"type": "integer", "minimum": 1},
    "coverage": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "unknown": {"type": "boolean", "default": False},
    "classes": {"type": "string"},
    "task": {"type": "string"},
}

_PREDICTION = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "description": "The picture's name."},
        "predictions": {
            "type": "array",
            "description": "The best classes, the most probable first.",
            "items": {
                "type": "object",
                "properties": {"label": {"type": "string"}, "probability": {"type": "number"}},
            },
        },
        "set": {"type": "array", "items": {"type": "string"}, "description": "With coverage: the prediction set."},
        "unknown": {"type": "boolean", "description": "With unknown: whether it belongs to no class."},
        "error": {"type": "string", "description": "In place of predictions: why the picture cannot be read."},
    },
}

PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FILES],
                    "properties": {
                        FILES: {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "The pictures, one or several.",
                        }
                    }
                    | {name: _TYPES[name] | {"description": about} for name, about in FIELDS.items()},
                }
            }
        },
    },
    "responses": {
        "200": {
            "description": "A prediction for each picture.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["predictions"],
                        "properties": {"predictions": {"type": "array", "items": _PREDICTION}},
                    }
                }
            },
        }
    },
}
"""What `POST /v1/predict` takes and gives, for OpenAPI."""

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The form or a field cannot be used, or the model cannot answer it."},
    401: {"description": "The token is missing or wrong."},
    408: {"description": "The body came too slowly."},
    413: {"description": "Too many bytes, pictures or fields, or all pictures are too large to be decoded."},
    415: {"description": "The body is no multipart/form-data."},
    429: {"description": "The server is busy: try again after the seconds of the header Retry-After."},
}
"""Answers that are errors; each is `{"detail": "one sentence"}`."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def page(schema: dict[str, Any]) -> Response:
    """The page for an OpenAPI description."""
    html = _template().render(schema=schema)
    return Response(html, media_type="text/html", headers={"content-security-policy": _POLICY})


@cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("shotfit.server", "assets")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("documentation.html")
