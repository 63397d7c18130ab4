"""What /openapi.json says: reasons of failures, this service's limits, and how to send a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from xcrossrec.serving.schemas import ErrorAnswer
from xcrossrec.serving.settings import Settings

_REASONS = {
    400: "The body is no JSON, or not in UTF-8, or has NaN, or nests too deeply.",
    401: "The API key is missing or unknown.",
    403: "The API key may read only.",
    404: "No such model, domain or item; the sentence names what exists.",
    408: "The body came too slowly.",
    409: "The model is being replaced already.",
    413: "The body is too large.",
    415: "The body is not announced as plain JSON.",
    422: "A value does not fit; the sentence names it.",
    429: "Too many requests wait: ask again after Retry-After.",
    503: "No answer in time, or the service is not ready: ask again after Retry-After.",
    507: "The disk is full: nothing was changed.",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI takes as a route's other answers."""
    return {status: {"model": ErrorAnswer, "description": _REASONS[status]} for status in statuses}


READ = failures(401, 403, 404, 422, 429, 503)
ASK = {**READ, **failures(400, 408, 413, 415)}
WRITE = {**ASK, **failures(507)}


def openapi_of(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The schema, with this service's limits and, where keys are set, how to send one."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _write_limits(schema["components"]["schemas"], settings)
        if settings.api_keys or settings.admin_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                if path not in ("/healthz", "/readyz"):
                    for operation in operations.values():
                        operation["security"] = [{"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema


def _write_limits(schemas: dict[str, Any], limits: Settings) -> None:
    schemas["RecommendRequest"]["properties"]["k"]["maximum"] = limits.k
    for request in ("RecommendRequest", "ScoreRequest", "ExplainRequest"):
        schemas[request]["properties"]["history"]["maxItems"] = limits.history
    schemas["ScoreRequest"]["properties"]["candidates"]["maxItems"] = limits.candidates
    schemas["RecommendRequest"]["properties"]["candidates"]["anyOf"][0]["maxItems"] = limits.candidates
    for request, field in (("UpsertRequest", "items"), ("PurchasesRequest", "purchases"), ("DeleteRequest", "ids")):
        schemas[request]["properties"][field]["maxItems"] = limits.upsert
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
