"""The schema at /openapi.json, with reasons of failures, this service's limits, and how to send a key."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from xcrossrec.serving.schemas import ErrorAnswer
from xcrossrec.serving.settings import Settings

_SAID = json.loads(files("xcrossrec.serving").joinpath("openapi.json").read_text("utf-8"))
"""Reasons of failures, by status, and examples of requests, by schema."""


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error answers of a route, as FastAPI describes them."""
    return {status: {"model": ErrorAnswer, "description": _SAID["reasons"][str(status)]} for status in statuses}


READ = failures(401, 403, 404, 422, 429, 503)
ASK = {**READ, **failures(400, 408, 413, 415)}
WRITE = {**ASK, **failures(507)}


def openapi_of(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The schema, with this service's limits and, where keys are set, how to send one."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _complete(schema["components"]["schemas"], settings)
        if settings.api_keys or settings.admin_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                if path not in ("/healthz", "/readyz"):
                    for operation in operations.values():
                        operation["security"] = [{"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema


def _complete(schemas: dict[str, Any], limits: Settings) -> None:
    for request, examples in _SAID["examples"].items():
        schemas[request]["examples"] = examples
    schemas["RecommendRequest"]["properties"]["k"]["maximum"] = limits.k
    for request in ("RecommendRequest", "ScoreRequest", "ExplainRequest"):
        schemas[request]["properties"]["history"]["maxItems"] = limits.history
    schemas["ScoreRequest"]["properties"]["candidates"]["maxItems"] = limits.candidates
    schemas["RecommendRequest"]["properties"]["candidates"]["anyOf"][0]["maxItems"] = limits.candidates
    for request, field in (("UpsertRequest", "items"), ("PurchasesRequest", "purchases"), ("DeleteRequest", "ids")):
        schemas[request]["properties"][field]["maxItems"] = limits.upsert
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
