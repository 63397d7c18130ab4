"""Services over tiny models, asked in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import httpx
import pytest

from conftest import make_tiny_domain

Asked: TypeAlias = Callable[..., httpx.Response]


class Shop:
    """A running service, asked without a network."""

    def __init__(self, service: Any) -> None:
        from xcrossrec.serving.app import create_app

        self.service = service
        self.app = create_app(service)

    def client(self, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, client=("127.0.0.1", 1))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **more)

        return asyncio.run(once())

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.ask("POST", path, json=body)

    def recommend(self, history: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        answer = self.post("/v1/recommend", {"history": history, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def opener(folder: Path) -> Callable[..., AbstractContextManager[Shop]]:
    """Serve models by name over the six items of the tiny domain, or of another folder; settings as keywords."""
    from xcrossrec.data import write_domain

    write_domain(make_tiny_domain(), folder / "items")

    @contextmanager
    def opened(models: Mapping[str, Path], items: Path | None = None, **settings: Any) -> Iterator[Shop]:
        from xcrossrec.serving.service import Service
        from xcrossrec.serving.settings import Settings, Spec

        source = items or folder / "items"
        specs = [Spec(name, path, _own(source, folder / f"of-{name}")) for name, path in models.items()]
        service = Service.start(specs, Settings(**settings))
        try:
            yield Shop(service)
        finally:
            service.close()

    return opened


@pytest.fixture(autouse=True)
def _replacing_a_model_collects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test run, which passes over what was imported, it would take a second in which nobody is answered."""
    monkeypatch.setattr("xcrossrec.serving.service.gc", SimpleNamespace(get_freeze_count=lambda: 0))


@pytest.fixture
def open_shop(tmp_path: Path) -> Callable[..., AbstractContextManager[Shop]]:
    """See :func:`opener`."""
    return opener(tmp_path)


def _own(source: Path, place: Path) -> Path:
    """A domain's folder for one model alone: pair models share the name of the catalogue beside it."""
    import shutil

    if not place.exists():
        shutil.copytree(source, place)
    return place


@pytest.fixture
def shop(open_shop: Callable[..., AbstractContextManager[Shop]], tiny_models: Any) -> Iterator[Shop]:
    """One `dual` model with `late` pooling, called toys."""
    with open_shop({"toys": tiny_models.late}) as opened:
        yield opened


@pytest.fixture(scope="module")
def lasting_shop(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """As `shop`, one for all tests of a file, which leave it as it is."""
    with opener(tmp_path_factory.mktemp("shop"))({"toys": tiny_models.late}) as opened:
        yield opened


def sentence(answer: httpx.Response, status: int, code: str) -> str:
    """The sentence of a refusal, which must have this status and code."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["code"] == code, error
    return str(error["message"])
