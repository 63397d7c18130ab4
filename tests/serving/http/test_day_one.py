"""Customers of whom nothing, or other categories alone, are known, over HTTP and at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.copurchase import CoPurchases
from xcrossrec.data import Domain, write_domain
from xcrossrec.models import bundle
from xcrossrec.models.purchases import with_counts

from .conftest import sentence


@pytest.fixture
def folder(tiny_models: Any, tmp_path: Path) -> Path:
    rows = [("a", "i3"), ("b", "i3"), ("a", "i1"), ("c", "i3"), ("c", "i1"), ("d", "i0")]
    counts = CoPurchases.count(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))
    bundle.save(
        with_counts(bundle.load(tiny_models.late), counts, {"one": 1.0}), tmp_path / "model", {"kind": "target"}
    )
    return tmp_path / "model"


def test_a_question_may_be_empty_and_name_other_categories(folder: Path, open_shop: Any) -> None:
    with open_shop({"toys": folder}) as shop:
        answer = shop.recommend([], k=2)
        assert [item["item_id"] for item in answer["items"]] == ["i3", "i1"]
        assert (answer["rung"], answer["reason"]) == ("none", "nothing is known about this customer: bestsellers first")
        other = shop.recommend([], k=2, other_history=["Cast iron pan"], explain=True)
        assert other["rung"] == "other"
        assert other["items"][0]["explanation"]["reasons"][1] == "Bought by 3 customers."
        own = shop.recommend([{"item_id": "i0"}])
        assert own["rung"] == "one"
        scored = shop.post("/v1/score", {"candidates": [{"item_id": "i3"}], "other_history": ["Cast iron pan"]}).json()
        assert (scored["rung"], scored["scores"][0]["score"]) == ("other", other["items"][0]["score"])
        explained = shop.post("/v1/explain", {"item": {"item_id": "i1"}}).json()["explanation"]
        assert explained["reasons"][0] == "Nothing is known about this customer: bestsellers first."
        said = sentence(shop.post("/v1/recommend", {"other_history": ["pan"] * 101}), 422, "limit")
        assert said.startswith("101 items of other categories, at most 100 are allowed here")


def test_the_command_needs_no_history(folder: Path, tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "toys")
    command = ["recommend", str(folder), "--catalog", str(tmp_path / "toys"), "-k", "1"]
    told = CliRunner().invoke(app, [*command, "--explain"])
    assert told.exit_code == 0, told.stderr
    assert "[i3]" in told.stdout
    assert "Bought by 3 customers." in told.stdout
    assert "nothing is known about this customer: bestsellers first" in told.stderr
    other = json.loads(CliRunner().invoke(app, [*command, "--other", "Cast iron pan", "--json"]).stdout)
    assert (other["rung"], other["history"]) == ("other", [])


def test_a_model_without_purchases_says_what_it_needs(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "toys")
    command = ["recommend", str(tiny_models.late), "--catalog", str(tmp_path / "toys")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "the history is empty: give at least one item id or title" in refused.stderr
    other = CliRunner().invoke(app, [*command, "--history", "i0", "--other", "Cast iron pan"])
    assert "the model knows no purchases, so a history of other categories tells it nothing" in other.stderr
