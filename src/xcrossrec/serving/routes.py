"""The HTTP API's routes: what they take, ask and give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json
from starlette.responses import FileResponse

from xcrossrec.answers import AddedPurchases, Explanation, Recommendations, Scores
from xcrossrec.catalogue.stored_item import LONGEST_ID
from xcrossrec.exceptions import XCrossRecError
from xcrossrec.recommender import Answer
from xcrossrec.serving import schemas
from xcrossrec.serving.metrics import CONTENT_TYPE
from xcrossrec.serving.openapi import ASK, READ, WRITE, failures
from xcrossrec.serving.problems import Problem, busy, check_limit, problem_of
from xcrossrec.serving.reading import JsonRoute
from xcrossrec.serving.served import Served
from xcrossrec.serving.service import Service

T = TypeVar("T")

PAGE = Path(__file__).parent / "page"
"""Where the page's files are."""

_PAGE_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)

Wanted = Annotated[str | None, Query(min_length=1, max_length=LONGEST_ID, description="A model's or a domain's name.")]

router = APIRouter(route_class=JsonRoute)


# ---- recommendations


@router.post("/v1/recommend", response_model=Recommendations, responses=ASK, tags=["recommend"])
async def recommend(request: Request, asked: schemas.RecommendRequest) -> Response:
    """Rank the catalogue, or some of it, for a history; equal scores in the catalogue's order."""
    started, limits = perf_counter(), _service(request).settings
    check_limit("k", asked.k, limits.k)
    if asked.explain:
        check_limit("recommendations to explain (k)", asked.k, limits.explained)
    served, found, reasons = await _ask(request, asked, explain=asked.explain, k=asked.k)
    items = [item.to_dict() for item in found.recommendations]
    for item, reason in zip(items, reasons or (), strict=bool(reasons)):
        item["explanation"] = reason.to_dict()
    unknown = {"unknown": list(found.unknown)} if asked.skip_unknown else {}
    return _answered(started, served, found.version, items=items, rung=found.rung, reason=found.reason, **unknown)


@router.post("/v1/score", response_model=Scores, responses=ASK, tags=["recommend"])
async def score(request: Request, asked: schemas.ScoreRequest) -> Response:
    """Score candidates, items of the catalogue or titles, for a history."""
    started = perf_counter()
    served, scored, _ = await _ask(request, asked, candidates=len(asked.candidates))
    scores = [vars(score) for score in scored.scores]
    return _answered(started, served, scored.version, scores=scores, rung=scored.rung, reason=scored.reason)


@router.post("/v1/explain", response_model=schemas.ExplainAnswer, responses=ASK, tags=["recommend"])
async def explain(request: Request, asked: schemas.ExplainRequest) -> Response:
    """Say why an item has its score: which history items matched, which source gave what at which layer."""
    started = perf_counter()
    served, scored, (reason,) = await _ask(request, asked, explain=True)
    return _answered(started, served, scored.version, explanation=reason.to_dict())


# ---- items


@router.get("/v1/items", response_model=schemas.ItemsAnswer, responses=READ, tags=["items"])
async def find_items(
    request: Request,
    model: Wanted = None,
    query: Annotated[str, Query(max_length=1000, description="Part of a title, or an id; empty: the first.")] = "",
    limit: Annotated[schemas.Whole, Query(ge=1, le=100)] = 10,
) -> Response:
    """Find items by a part of their title; the one with just that id comes first."""
    served, within_s = _service(request).find(model), _service(request).settings.search_timeout_s

    def search() -> dict[str, Any]:
        snapshot = served.store.snapshot()
        named = [item for item in snapshot.get([query.strip()]) if item is not None]
        titled = snapshot.search_titles(query, limit, within_s=within_s)
        items = [*named, *(item for item in titled if item not in named)][:limit]
        return {"model": served.spec.name, "catalog_version": snapshot.version, "items": items}

    return _json(await _within(within_s, search, "the titles were not searched"))


@router.put("/v1/items", response_model=schemas.UpsertAnswer, responses=WRITE, tags=["items"])
async def write_items(request: Request, asked: schemas.UpsertRequest) -> Response:
    """Write items, all or none: on disk, and recommended, when this is answered."""
    return await _write(request, asked.model, {"items": len(asked.items)}, "writes", asked.items, "written")


@router.delete("/v1/items", response_model=schemas.DeleteAnswer, responses=WRITE, tags=["items"])
async def delete_items(request: Request, asked: schemas.DeleteRequest) -> Response:
    """Delete items, all or none: gone from disk when this is answered; an unknown id is no error."""
    return await _write(request, asked.model, {"items": len(asked.ids)}, "writes", asked.ids, "deleted")


# ---- purchases


@router.post("/v1/purchases", response_model=AddedPurchases, responses=WRITE, tags=["purchases"])
async def add_purchases(request: Request, asked: schemas.PurchasesRequest) -> Response:
    """Add purchases, all or none: on disk, and seen by every answer, when this is answered."""
    count = sum(len(each.items) for each in asked.purchases)
    check_limit("purchases", count, _service(request).settings.upsert)
    wanted = [purchase for each in asked.purchases for purchase in each.purchases()], asked.skip_unknown
    return await _write(request, asked.model, {"purchases": count}, "purchases", wanted, "added")


@router.delete("/v1/purchases", response_model=schemas.ForgetAnswer, responses=WRITE, tags=["purchases"])
async def forget_customer(request: Request, asked: schemas.ForgetRequest) -> Response:
    """Delete all purchases of a customer, those that the model knows from its training too: gone from disk, and from
    every answer, when this is answered."""
    return await _write(request, asked.model, {"customers": 1}, "writes", asked, "forgotten")


async def _write(
    request: Request,
    model: str | None,
    counts: Mapping[str, int],
    worker: Literal["writes", "purchases"],
    asked: Any,
    done: str,
) -> Response:
    """Write to a model's catalogue, or to its successor's where it is replaced meanwhile, as often as that happens."""
    service = _service(request)
    served = service.find(model)
    while True:
        request.state.facts.update(model=served.spec.name, **counts)
        try:
            answer = await getattr(served, worker).ask(asked, timeout_s=service.settings.timeout_s)
            getattr(service.metrics, done).labels(served.spec.name).inc(answer[done])
            return _json({"model": served.spec.name, **answer})
        except XCrossRecError as error:
            new = await service.successor(served) if problem_of(error).code == "replaced" else None
            if new is None:
                raise
            served = new


# ---- models


@router.get("/v1/model", response_model=schemas.ModelInfo, responses=READ, tags=["models"])
async def model_info(request: Request, name: Wanted = None) -> Response:
    """Describe a model: its sources, how it scores, its catalogue."""
    return _json((await _info(request, _service(request).find(name))).model_dump())


@router.get("/v1/models", response_model=schemas.ModelsAnswer, responses=READ, tags=["models"])
async def model_infos(request: Request) -> Response:
    """Describe all models."""
    infos = [await _info(request, served) for served in list(_service(request).models.values())]
    return _json({"models": [info.model_dump() for info in infos]})


@router.post(
    "/v1/models/{name}/reload", response_model=schemas.ModelInfo, responses={**WRITE, **failures(409)}, tags=["models"]
)
async def reload_model(request: Request, name: str, asked: schemas.ReloadRequest) -> Response:
    """Put another bundle in a model's place while it serves; answered when the new one answers."""
    new = await _service(request).replace(name, None if asked.path is None else Path(asked.path))
    return _json((await _info(request, new)).model_dump())


# ---- the process


@router.get("/healthz", response_model=schemas.StateAnswer, responses=failures(422), tags=["process"])
async def healthz() -> Response:
    """Say that the process runs."""
    return _json({"status": "ok"})


@router.get("/readyz", response_model=schemas.StateAnswer, responses=failures(422, 503), tags=["process"])
async def readyz(request: Request) -> Response:
    """Say whether requests are welcome: not while the service stops, or is behind the others on its catalogue."""
    service = _service(request)
    if service.draining:
        raise Problem(503, "draining", "the service is about to stop: ask another one", {"Retry-After": "1"})
    if service.behind:
        said = (
            f"{service.behind[0]!r} was replaced on its catalogue by a model that cannot be read here: ask another one"
        )
        raise Problem(503, "behind", said, {"Retry-After": "30"})
    return _json({"status": "ready", "models": list(service.models)})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **failures(401, 422)},
    tags=["process"],
)
async def metrics(request: Request) -> Response:
    """Give the metrics in Prometheus' text format."""
    return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Give the page."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": _PAGE_POLICY})


@router.get("/report", include_in_schema=False)
async def report(request: Request, model: Wanted = None) -> Response:
    """Give the page that says how a model was chosen; whatever it holds, no script runs in it."""
    served = _service(request).find(model)
    if (place := served.report) is None:
        raise Problem(
            404,
            "no_report",
            f"the model {served.spec.name!r} has no report: serve the folder 'model' that xcrossrec adapt left, with "
            "report.html and decision.json beside it",
        )
    return FileResponse(place, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


# ---- small parts


def _service(request: Request) -> Service:
    return request.app.state.service  # type: ignore[no-any-return]


async def _info(request: Request, served: Served) -> schemas.ModelInfo:
    """Describe a model; its catalogue may have to be asked."""
    return await _within(_service(request).settings.timeout_s, lambda: served.info)


async def _within(seconds: float, work: Callable[[], T], late: str = "the catalogue did not answer") -> T:
    """Refuse (Problem, 503) what takes longer: many titles, or a database that does not answer."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(work)
    except TimeoutError:
        raise busy(f"{late} within {seconds:g} s: ask again, or for less", status=503, code="timeout") from None


async def _ask(
    request: Request,
    asked: schemas.RecommendRequest | schemas.ScoreRequest | schemas.ExplainRequest,
    *,
    explain: bool = False,
    **counts: int,
) -> tuple[Served, Answer, Sequence[Explanation]]:
    """Ask a model, and why its answers are so; put into the log what was asked, titles only where they are wanted."""
    service, facts, gone = _service(request), request.state.facts, request.is_disconnected
    served, until = service.find(asked.model), monotonic() + service.settings.timeout_s
    facts.update(model=served.spec.name, history=len(asked.history), **counts)
    if service.settings.log_titles:
        facts["titles"] = [entry.title for entry in asked.history if entry.title is not None]
        facts["ids"] = [entry.item_id for entry in asked.history if entry.item_id is not None]
    found = await served.answers.ask(asked.question(), timeout_s=service.settings.timeout_s, gone=gone)
    if not explain or not found.found:
        return served, found, ()
    try:
        return served, found, await served.reasons.ask(found, timeout_s=max(0.001, until - monotonic()), gone=gone)
    except Problem as problem:
        if problem.code == "replaced" and await service.successor(served):
            return await _ask(request, asked, explain=explain, **counts)
        raise


def _answered(started: float, served: Served, version: int, **answer: Any) -> Response:
    took_ms = round((perf_counter() - started) * 1000, 3)
    return _json({"model": served.spec.name, "catalog_version": version, **answer, "took_ms": took_ms})


def _json(answer: Mapping[str, Any]) -> Response:
    return Response(to_json(answer), media_type="application/json")
