"""The HTTP API: routes, what they take and give, and how failures read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from xcrossrec._version import __version__
from xcrossrec.answers import Explanation
from xcrossrec.exceptions import XCrossRecError
from xcrossrec.serving.engine import Named, Ranked, Scored
from xcrossrec.serving.gate import Gate
from xcrossrec.serving.metrics import CONTENT_TYPE
from xcrossrec.serving.problems import Problem, invalid, problem_of
from xcrossrec.serving.schemas import (
    LONGEST_ID,
    DeleteAnswer,
    DeleteRequest,
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    HealthAnswer,
    ItemById,
    ItemByTitle,
    ItemsAnswer,
    ModelInfo,
    ModelsAnswer,
    ReadyAnswer,
    RecommendAnswer,
    RecommendRequest,
    ReloadRequest,
    ScoreAnswer,
    ScoreRequest,
    UpsertAnswer,
    UpsertRequest,
)
from xcrossrec.serving.served import Reasons, Served, Written
from xcrossrec.serving.service import Service
from xcrossrec.serving.settings import Settings

PAGE = Path(__file__).parent / "page"
"""Where the page's files are."""

_PAGE_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

Wanted = Annotated[str | None, Query(min_length=1, max_length=LONGEST_ID, description="A model's or a domain's name.")]


class _JsonRequest(Request):
    """Reads JSON strictly: UTF-8, no NaN, not nested deeply."""

    async def json(self) -> Any:
        body = await self.body()
        limit = self.app.state.service.settings.depth
        try:
            value = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise _no_json(f"the body is no JSON in UTF-8 ({error}): send what /openapi.json says") from None
        if _deeper(value, limit):
            raise _no_json(f"the body nests lists and objects in more than {limit} levels: send it flatter")
        return value


def _no_json(sentence: str) -> HTTPException:
    """A refusal of the kind that FastAPI lets through while it reads a body."""
    return HTTPException(400, sentence)


class _JsonRoute(APIRoute):
    """A route whose bodies are read by :class:`_JsonRequest`, and whose JSON is announced as such."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handler, takes_body = super().get_route_handler(), self.body_field is not None

        async def handle(request: Request) -> Response:
            if takes_body:
                _check_content_type(request)
            try:
                return await handler(_JsonRequest(request.scope, request.receive))
            except RequestValidationError as error:
                raise invalid(error.errors()) from None

        return handle


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": _REASONS[status]} for status in statuses}


_REASONS = {
    400: "The body is no JSON, or not in UTF-8, or has NaN, or nests too deeply.",
    401: "The API key is missing or unknown.",
    403: "The API key may read only.",
    404: "No such model, domain or item; the sentence names what exists.",
    408: "The body came too slowly.",
    409: "The model is being replaced already.",
    413: "The body is too large.",
    415: "The body is not announced as JSON.",
    422: "A value does not fit; the sentence names it.",
    429: "Too many requests wait: ask again after Retry-After.",
    503: "No answer in time, or the service is not ready: ask again after Retry-After.",
    507: "The disk is full: nothing was changed.",
}
_READ = _failures(401, 403, 404, 422, 429, 503)
_ASK = {**_READ, **_failures(400, 408, 413, 415)}
_WRITE = {**_ASK, **_failures(507)}

router = APIRouter(route_class=_JsonRoute)


# ---- recommendations


@router.post("/v1/recommend", response_model=RecommendAnswer, responses=_ASK, tags=["recommend"])
async def recommend(request: Request, asked: RecommendRequest) -> Response:
    """Rank the catalogue, or some of it, for a history; equal scores in the catalogue's order."""
    started, service = perf_counter(), _service(request)
    limits = service.settings
    _check("k", asked.k, limits.k)
    _check("items of the history", len(asked.history), limits.history)
    _check("candidates", len(asked.candidates or ()), limits.candidates)
    if asked.explain:
        _check("recommendations to explain (k)", asked.k, limits.explained)
    served = service.find(asked.model)
    _note(request, served, limits, asked.history, k=asked.k)
    ranked = await served.answers.ask(asked, timeout_s=limits.timeout_s)
    assert isinstance(ranked, Ranked)
    items = [_recommended(place, item, score) for place, (item, score) in enumerate(ranked.found, start=1)]
    if asked.explain and items:
        named = [Named(item, item.title) for item, _ in ranked.found]
        left_s = max(0.001, limits.timeout_s - (perf_counter() - started))
        try:
            reasons = await served.reasons.ask(Reasons(ranked.history, named), timeout_s=left_s)
        except Problem as problem:
            if problem.code == "replaced" and await service.successor(served):
                return await recommend(request, asked)
            raise
        for item, reason in zip(items, reasons.explanations, strict=True):
            item["explanation"] = _explanation(reason)
    answer = {"model": served.spec.name, "catalog_version": ranked.version, "items": items}
    return _timed(started, {**answer, "unknown": list(ranked.unknown)} if asked.skip_unknown else answer)


@router.post("/v1/score", response_model=ScoreAnswer, responses=_ASK, tags=["recommend"])
async def score(request: Request, asked: ScoreRequest) -> Response:
    """Score candidates, items of the catalogue or titles, for a history."""
    started, service = perf_counter(), _service(request)
    _check("items of the history", len(asked.history), service.settings.history)
    _check("candidates", len(asked.candidates), service.settings.candidates)
    served = service.find(asked.model)
    _note(request, served, service.settings, asked.history, candidates=len(asked.candidates))
    scored = await served.answers.ask(asked, timeout_s=service.settings.timeout_s)
    assert isinstance(scored, Scored)
    scores = [
        {"item_id": named.item_id, "title": named.item.title if named.item else named.text, "score": value}
        for named, value in zip(scored.candidates, scored.scores, strict=True)
    ]
    return _timed(started, {"model": served.spec.name, "catalog_version": scored.version, "scores": scores})


@router.post("/v1/explain", response_model=ExplainAnswer, responses=_ASK, tags=["recommend"])
async def explain(request: Request, asked: ExplainRequest) -> Response:
    """Say why an item has its score: which history items matched, which source gave what at which layer."""
    started, service = perf_counter(), _service(request)
    _check("items of the history", len(asked.history), service.settings.history)
    served = service.find(asked.model)
    _note(request, served, service.settings, asked.history)
    explained = await served.reasons.ask(asked, timeout_s=service.settings.timeout_s)
    answer = {"model": served.spec.name, "catalog_version": explained.version}
    return _timed(started, {**answer, "explanation": _explanation(explained.explanations[0])})


# ---- items


@router.get("/v1/items", response_model=ItemsAnswer, responses=_READ, tags=["items"])
async def find_items(
    request: Request,
    model: Wanted = None,
    query: Annotated[str, Query(max_length=1000, description="A part of a title; empty: the first items.")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """Find items by a part of their title."""
    served = _service(request).find(model)
    snapshot = served.store.snapshot()
    found = await asyncio.to_thread(snapshot.search_titles, query, limit)
    fields = ("item_id", "title", "category", "in_stock", "price", "metadata")
    items = [{name: getattr(item, name) for name in fields} for item in found]
    return _json({"model": served.spec.name, "catalog_version": snapshot.version, "items": items})


@router.put("/v1/items", response_model=UpsertAnswer, responses=_WRITE, tags=["items"])
async def write_items(request: Request, asked: UpsertRequest) -> Response:
    """Write items, all or none: on disk, and recommended, when this is answered."""
    _check("items", len(asked.items), _service(request).settings.upsert)
    served, written = await _write(request, asked.model, asked.items)
    _service(request).metrics.written.labels(served.spec.name).inc(written.count)
    return _json({"model": served.spec.name, "catalog_version": written.version, "written": written.count})


@router.delete("/v1/items", response_model=DeleteAnswer, responses=_WRITE, tags=["items"])
async def delete_items(request: Request, asked: DeleteRequest) -> Response:
    """Delete items, all or none: gone from disk when this is answered; an unknown id is no error."""
    _check("ids", len(asked.ids), _service(request).settings.upsert)
    served, deleted = await _write(request, asked.model, asked.ids)
    _service(request).metrics.deleted.labels(served.spec.name).inc(deleted.count)
    return _json({"model": served.spec.name, "catalog_version": deleted.version, "deleted": deleted.count})


async def _write(request: Request, model: str | None, asked: Sequence[Any]) -> tuple[Served, Written]:
    """Write to a model's catalogue, or to its successor's where it is replaced meanwhile, as often as that happens."""
    service = _service(request)
    served = service.find(model)
    while True:
        request.state.facts.update(model=served.spec.name, items=len(asked))
        try:
            return served, await served.writes.ask(asked, timeout_s=service.settings.timeout_s)
        except XCrossRecError as error:
            new = await service.successor(served) if problem_of(error).code == "replaced" else None
            if new is None:
                raise
            served = new


# ---- models


@router.get("/v1/model", response_model=ModelInfo, responses=_READ, tags=["models"])
async def model_info(request: Request, name: Wanted = None) -> Response:
    """Describe a model: its sources, how it scores, its catalogue."""
    return _json(_service(request).find(name).info.model_dump())


@router.get("/v1/models", response_model=ModelsAnswer, responses=_failures(401, 403), tags=["models"])
async def model_infos(request: Request) -> Response:
    """Describe all models."""
    return _json({"models": [served.info.model_dump() for served in _service(request).models.values()]})


@router.post(
    "/v1/models/{name}/reload", response_model=ModelInfo, responses={**_WRITE, **_failures(409)}, tags=["models"]
)
async def reload_model(request: Request, name: str, asked: ReloadRequest) -> Response:
    """Put another bundle in a model's place while it serves; answered when the new one answers."""
    new = await _service(request).replace(name, None if asked.path is None else Path(asked.path))
    return _json(new.info.model_dump())


# ---- the process


@router.get("/healthz", response_model=HealthAnswer, tags=["process"])
async def healthz() -> Response:
    """Say that the process runs."""
    return _json({"status": "ok"})


@router.get("/readyz", response_model=ReadyAnswer, responses=_failures(503), tags=["process"])
async def readyz(request: Request) -> Response:
    """Say whether requests are welcome: not while the service is about to stop."""
    service = _service(request)
    if service.draining:
        raise Problem(503, "draining", "the service is about to stop: ask another one", {"Retry-After": "1"})
    return _json({"status": "ready", "models": list(service.models)})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_failures(401)},
    tags=["process"],
)
async def metrics(request: Request) -> Response:
    """Give the metrics in Prometheus' text format."""
    return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Give the page."""
    if not (PAGE / "index.html").is_file():
        raise Problem(404, "no_page", "this installation has no page: the API is described at /openapi.json")
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": _PAGE_POLICY})


# ---- the application


def create_app(service: Service) -> FastAPI:
    """Put the API over a service; the service is closed when the application stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="xcrossrec",
        version=__version__,
        description="Recommendations by integrated, domain-specific language models.",
        docs_url=None,  # their pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router)
    if PAGE.is_dir():
        app.mount("/static", StaticFiles(directory=PAGE), name="static")
    for kind in (HTTPException, Problem, XCrossRecError):
        app.add_exception_handler(kind, _refuse)
    app.openapi = lambda: _openapi(app, service.settings)  # type: ignore[method-assign]
    settings = service.settings
    app.add_middleware(
        Gate,
        settings=settings,
        metrics=service.metrics,
        room=lambda: (settings.queue + settings.batch) * len(service.models),
        draining=lambda: service.draining,
    )
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        problem = Problem(
            error.status_code,
            "json" if error.status_code == 400 else "http",
            _http_sentence(request, error),
            error.headers,
        )
    else:
        problem = problem_of(error)
    request.state.facts["code"] = problem.code
    return Response(to_json(problem.body), problem.status, problem.headers, media_type="application/json")


def _http_sentence(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is nothing at {request.url.path[:80]!a}: /openapi.json lists what there is"
    if error.status_code == 405:
        return f"{request.method} is not taken at {request.url.path[:80]!a}: /openapi.json lists what is"
    return str(error.detail)


def _openapi(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The schema, with this service's limits and, where keys are set, how to send one."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _write_limits(schema["components"]["schemas"], settings)
        if settings.api_keys or settings.admin_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            _demand_key(schema["paths"])
        app.openapi_schema = schema
    return app.openapi_schema


def _write_limits(schemas: dict[str, Any], limits: Settings) -> None:
    schemas["RecommendRequest"]["properties"]["k"]["maximum"] = limits.k
    for request in ("RecommendRequest", "ScoreRequest", "ExplainRequest"):
        schemas[request]["properties"]["history"]["maxItems"] = limits.history
    schemas["ScoreRequest"]["properties"]["candidates"]["maxItems"] = limits.candidates
    schemas["RecommendRequest"]["properties"]["candidates"]["anyOf"][0]["maxItems"] = limits.candidates
    schemas["UpsertRequest"]["properties"]["items"]["maxItems"] = limits.upsert
    schemas["DeleteRequest"]["properties"]["ids"]["maxItems"] = limits.upsert
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)


def _demand_key(paths: dict[str, Any]) -> None:
    for path, operations in paths.items():
        if path not in ("/healthz", "/readyz"):
            for operation in operations.values():
                operation["security"] = [{"key": []}]


# ---- small parts


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _check(what: str, value: int, most: int) -> None:
    if value > most:
        raise Problem(422, "limit", f"{value} {what}, at most {most} are allowed here: ask for fewer")


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type", "")
    kind, _, parameters = given.partition(";")
    charset = parameters.lower().replace('"', "").partition("charset=")[2].strip()
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise Problem(415, "content_type", f"the body is announced as {given[:80]!a}: send application/json in UTF-8")


def _deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value nests in more levels."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _note(request: Request, served: Served, settings: Settings, history: Sequence[Any], **counts: int) -> None:
    """Put into the log what was asked; titles only where the operator wants them."""
    facts = request.state.facts
    facts.update(model=served.spec.name, history=len(history), **counts)
    if settings.log_titles:
        facts["titles"] = [entry.title for entry in history if isinstance(entry, ItemByTitle)]
        facts["ids"] = [entry.id for entry in history if isinstance(entry, ItemById)]


def _recommended(rank: int, item: Any, score: float) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "title": item.title,
        "score": score,
        "rank": rank,
        "category": item.category,
        "in_stock": item.in_stock,
        "price": item.price,
    }


def _explanation(found: Explanation) -> dict[str, Any]:
    return found.to_dict()


def _timed(started: float, answer: Mapping[str, Any]) -> Response:
    return _json({**answer, "took_ms": round((perf_counter() - started) * 1000, 3)})


def _json(answer: Mapping[str, Any]) -> Response:
    return Response(to_json(answer), media_type="application/json")
