"""Paths are text or :class:`pathlib.Path`, and tables are of any library, at every public function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import xcrossrec
from xcrossrec.catalogue import Filters, build_catalogue, read_items
from xcrossrec.config import source_config, target_config
from xcrossrec.data import Domain
from xcrossrec.data.lint import lint
from xcrossrec.exceptions import ConfigError
from xcrossrec.recommender import Question
from xcrossrec.recommender.job import job_of, recommend_batch

PACKAGES = ("", ".data", ".data.readers", ".data.lint", ".data.market", ".evaluation", ".catalogue", ".recommender")
OUTSIDE = {"Columns.found_in", "Catalogue.__init__", "SqliteCatalogue.__init__"}
"""Made by functions that are public, never by hand."""


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every function, and every public method of every class, that a package names as its own."""
    for package in PACKAGES:
        module = import_module(f"xcrossrec{package}")
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield name, found
            for part, method in vars(found).items() if inspect.isclass(found) else ():
                function = getattr(method, "__func__", method)
                if inspect.isfunction(function) and (part == "__init__" or not part.startswith("_")):
                    yield f"{name}.{part}", function
    yield from (("job_of", job_of), ("recommend_batch", recommend_batch))


def test_every_public_path_may_be_text() -> None:
    taken, refused = set(), set()
    for name, function in public_functions():
        for parameter, kind in getattr(function, "__annotations__", {}).items():
            if parameter != "return" and re.search(r"\bPath\b", str(kind)):
                (taken if re.search(r"\bstr\b", str(kind)) else refused).add(f"{name} {parameter}")
    assert {each for each in refused if each.split()[0] not in OUTSIDE} == {"open_catalogue taken"}
    assert {"read_domain path", "write_domain path", "train_source out", "evaluate directory", "load path"} <= taken
    assert {"Evaluation.load path", "Evaluation.save path", "lint domains", "scorer_for spec"} <= taken


def test_the_whole_job_by_paths_as_text(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    def at(name: str) -> str:
        return str(tmp_path / name)

    xcrossrec.write_domain(tiny_domain, at("tiny"))
    domain = xcrossrec.read_domain(at("tiny"))
    assert lint(at("tiny")).domains == (domain.name,)
    base = str(tiny_models.base)
    xcrossrec.train_source(domain, at("one"), base=base, config=source_config(epochs=1), show_progress=False)
    sources = [str(each) for each in tiny_models.sources]
    settings = target_config(users=3, epochs=1)
    xcrossrec.train_target(domain, sources, at("model"), base=base, config=settings, show_progress=False)
    xcrossrec.load(at("model"))
    scorer = xcrossrec.scorer_for(at("model"), domain).scorer
    xcrossrec.evaluate(scorer, domain, "train", negatives=["full"], directory=at("tiny")).save(at("r.parquet"))
    assert xcrossrec.Evaluation.load(at("r.parquet")).info.domain == domain.name
    build_catalogue(xcrossrec.load(at("model")), at("tiny"), at("catalogue")).close()
    pl.DataFrame({"user_id": ["u"], "history": [["i0"]]}).write_parquet(at("users.parquet"))
    with xcrossrec.Recommender.from_pretrained(at("model"), at("catalogue")) as recommender:
        asked = Question([], 2, Filters())
        job = job_of(recommender, at("model"), at("users.parquet"), asked)
        assert recommend_batch(recommender, at("users.parquet"), at("out.parquet"), job=job, asked=asked).users == 1


@pytest.mark.parametrize("path", [None, 5, b"x"])
def test_what_is_no_path_is_told(path: Any, tiny_domain: Domain) -> None:
    doors: list[Callable[[Any], Any]] = [xcrossrec.read_domain, xcrossrec.load, lint, xcrossrec.Evaluation.load]
    doors += [partial(xcrossrec.write_domain, tiny_domain), partial(xcrossrec.train_source, tiny_domain)]
    for door in (*doors, partial(xcrossrec.train_target, tiny_domain, [])):
        with pytest.raises(ConfigError, match=rf" is {path!r}: expected (Domain or )?a path or a text"):
            door(path)


MAKERS = [list, pl.DataFrame, pl.LazyFrame, pd.DataFrame, pa.Table.from_pylist]


@pytest.mark.parametrize("make", MAKERS)
def test_a_catalogue_is_a_table_of_any_library(
    make: Callable[[Any], Any], tiny_domain: Domain, tiny_models: Any
) -> None:
    table = make(tiny_domain.items.to_dicts())
    assert read_items(table) == read_items(tiny_domain)
    recommender = xcrossrec.Recommender.from_pretrained(tiny_models.late, table)
    history = ["i0", "i1"]
    expected = recommender.recommend(history)
    for as_column in (pl.Series, pd.Series, lambda values: pd.Series(values).to_numpy()):
        assert recommender.recommend(as_column(history)) == expected
        assert recommender.recommend(["i0"], candidates=as_column(["i3"]))[0].item_id == "i3"
