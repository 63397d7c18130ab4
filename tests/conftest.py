"""Fixtures that every test may use, and the settings of the whole run."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from xcrossrec.data import Domain


# Shapes are checked at run time in the whole test run. The hook must be in place before the package is
# imported for the first time, so nothing of the package is imported above or at this level.
# What it stands on comes before: below the hook it would be compiled anew. The process that only hands tests out
# (`-n 2`) imports nothing of all that, and saves five seconds.
if "PYTEST_XDIST_WORKER" in os.environ or "-n" not in sys.argv:
    import_module("sentence_transformers")
    import_module("peft")
sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("xcrossrec", "shape_checker.check_shapes")

from postgres import postgres, postgres_server  # noqa: E402, F401 - fixtures

settings.register_profile("xcrossrec", deadline=None, derandomize=True)
settings.load_profile("xcrossrec")

AMAZON = Path(__file__).resolve().parents[2] / "shared" / "data" / "amazon"

TINY_ITEMS = {
    "i0": "Red wooden train",
    "i1": "Blue wooden train",
    "i2": "Train track, 12 pieces",
    "i3": "Cordless drill 18 V",
    "i4": "Drill bit set",
    "i5": "Tape measure 5 m",
}
TINY_SEQUENCES: dict[str, dict[str, str]] = {
    "train": {"u0": "i0 i1 i2", "u1": "i3 i4 i5", "u2": "i2 i0 i1 i4"},
    "validation": {"u3": "i1 i0 i2", "u4": "i5 i3 i4"},
    "test": {"u5": "i4 i5 i3", "u6": "i0 i2"},
}


def interactions_of(sequences: dict[str, str]) -> pl.DataFrame:
    """Write sequences such as ``{"u0": "i0 i1"}`` as a table of interactions."""
    rows = [(u, item, n) for u, items in sequences.items() for n, item in enumerate(items.split())]
    schema = {"user_id": pl.String, "item_id": pl.String, "position": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def pytest_collection_finish() -> None:
    """What was imported stays to the end: collections of garbage, one in each training, need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Put back where the package logs to: a service writes to a stream that is closed after its test."""
    logger = logging.getLogger("xcrossrec")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def make_tiny_domain() -> Domain:
    from xcrossrec.data import build_domain

    items = pl.DataFrame({"item_id": list(TINY_ITEMS), "title": list(TINY_ITEMS.values())})
    return build_domain("tiny", items, {s: interactions_of(q) for s, q in TINY_SEQUENCES.items()})


@pytest.fixture
def tiny_domain() -> Domain:
    """A domain of six items and seven users, small enough to check by hand; the linter finds nothing."""
    return make_tiny_domain()


@pytest.fixture(scope="session")
def amazon_dir() -> Path:
    """The folder with the real Amazon data, which are never part of the repository."""
    if not AMAZON.is_dir():
        pytest.skip(f"REAL DATA ABSENT: {AMAZON} does not exist, so nothing was checked on real data")
    return AMAZON


@dataclass(frozen=True)
class TinyModels:
    """Folders of random models, for tests of what stands on top of models."""

    base: Path
    """a BERT of two layers, 32 wide, that reads any lower-case word letter by letter."""
    sources: tuple[Path, Path]
    """two adapters (rank 2) over it, named kitchen and camping; their users are u0 and u3."""
    late: Path
    """an X-Cross bundle of both with random integrators, `dual`; so are the next ones, but for what is said."""
    text: Path
    """as `late`, but it reads ``{title}; by {brand}; {category}``."""
    merged: Path
    """of the form ``merged``, with a random LoRA of the target's own."""
    pair: Path
    shared: Path
    """as `pair`, with histories encoded once"""


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """A base, two adapters and four bundles on disk; random, untrained, the same in every run."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import tiny_models
    finally:
        sys.path.pop(0)
    return TinyModels(*tiny_models.write_all(tmp_path_factory.mktemp("tiny-models")))
