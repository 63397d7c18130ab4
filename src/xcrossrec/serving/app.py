"""The HTTP application: routes, the gate before them, and how failures read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from xcrossrec._version import __version__
from xcrossrec.exceptions import XCrossRecError
from xcrossrec.serving.gate import Gate
from xcrossrec.serving.openapi import openapi_of
from xcrossrec.serving.problems import Problem, problem_of
from xcrossrec.serving.routes import PAGE, router
from xcrossrec.serving.service import Service


def create_app(service: Service) -> FastAPI:
    """Put the API over a service; the service is closed when the application stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(service.follow())
        yield
        service.draining = True
        following.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="xcrossrec",
        version=__version__,
        description="Recommendations by integrated, domain-specific language models.",
        docs_url=None,  # their pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # to an address that a proxy in front may not know
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    for kind in (HTTPException, Problem, XCrossRecError):
        app.add_exception_handler(kind, _refuse)
    app.openapi = lambda: openapi_of(app, service.settings)  # type: ignore[method-assign]
    app.add_middleware(Gate, service=service)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        problem = Problem(
            error.status_code,
            "json" if error.status_code == 400 else "http",
            _http_sentence(request, error),
            {"Allow": _allowed(request)} if error.status_code == 405 else error.headers,
        )
    else:
        problem = problem_of(error)
    request.state.facts["code"] = problem.code
    return Response(to_json(problem.body), problem.status, problem.headers, media_type="application/json")


def _http_sentence(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is nothing at {request.url.path[:80]!a}: /openapi.json lists what there is"
    if error.status_code == 405:
        return f"{request.method} is not taken at {request.url.path[:80]!a}: {_allowed(request)} are"
    return str(error.detail)


def _allowed(request: Request) -> str:
    """The methods that a path takes, whichever route has them."""
    routes = (
        route for route in router.routes if isinstance(route, APIRoute) and route.path_regex.match(request.url.path)
    )
    methods = {method for route in routes for method in route.methods or ()} or {"GET"}  # else it is a file of the page
    return ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
