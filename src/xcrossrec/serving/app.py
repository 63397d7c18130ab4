"""The HTTP application: the routes, and the gate in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from xcrossrec._version import __version__
from xcrossrec.serving.gate import Gate
from xcrossrec.serving.openapi import openapi_of
from xcrossrec.serving.problems import Problem, nothing_at
from xcrossrec.serving.routes import PAGE, router
from xcrossrec.serving.service import Service


def create_app(service: Service) -> FastAPI:
    """Make the application of a service, which is closed when the application stops."""

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
        docs_url=None,  # it loads scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # a proxy may not know the other address
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    app.add_exception_handler(HTTPException, _refuse)
    app.openapi = lambda: openapi_of(app, service.settings)  # type: ignore[method-assign]
    app.add_middleware(Gate, service=service)
    return app


async def _refuse(request: Request, error: Any) -> Response:
    """Turn routing errors into refusals, which the gate sends."""
    path = request.url.path
    if error.status_code == 404:
        raise nothing_at(path)
    if error.status_code == 405:
        allowed = _allowed(path)
        raise Problem(405, "http", f"{request.method} is not taken at {path[:80]!r}: {allowed} are", {"Allow": allowed})
    raise Problem(error.status_code, "http", str(error.detail), error.headers)


def _allowed(path: str) -> str:
    """The methods that a path takes, whichever route has them."""
    routes = (route for route in router.routes if isinstance(route, APIRoute) and route.path_regex.match(path))
    methods = {method for route in routes for method in route.methods or ()} or {"GET"}  # else it is a file of the page
    return ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
