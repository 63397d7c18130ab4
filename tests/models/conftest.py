"""Bases and adapters of every family, written once a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import Model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_families import FAMILIES, Family, Source, fresh_base, randomise, write_base, write_sources
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.types import Scoring


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's random base."""
    root = tmp_path_factory.mktemp("bases")
    return cache(lambda name: write_base(root / name, FAMILIES[name]))


@pytest.fixture(scope="session")
def sources_of(tmp_path_factory: pytest.TempPathFactory, base_of: Callable[[str], Path]) -> Callable[..., list[Source]]:
    """``sources_of(family, count, head=False)``: adapters over the family's base."""
    root = tmp_path_factory.mktemp("adapters")

    @cache
    def make(name: str, count: int, head: bool = False) -> list[Source]:
        return write_sources(root / f"{name}-{count}-{head}", base_of(name), FAMILIES[name], count, head=head)

    return make


@pytest.fixture
def make_model(base_of: Callable[[str], Path], sources_of: Callable[..., list[Source]]) -> Callable[..., Model]:
    """A model with random integrators, stream weights and head over BERT."""

    def make(scoring: Scoring = "dual") -> Model:
        base = fresh_base(base_of("bert"))
        adapters = [read_adapter(source.folder, base) for source in sources_of("bert", 2)]
        model = build_model(XCrossEncoder(base, adapters), scoring=scoring)
        for part in ("concat_weight", "stream_weight", "log_recency"):
            randomise(model, part, 0.1)
        randomise(model[-1], "value", 0.1)
        model.eval()
        return model

    return make
