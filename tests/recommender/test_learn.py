"""Purchases that came after the training: counted with those that the model knows, in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import xcrossrec
from conftest import TINY_ITEMS, TINY_SEQUENCES, interactions_of
from xcrossrec.baselines.named import scorer_for
from xcrossrec.catalogue import fingerprint_of
from xcrossrec.cli import app
from xcrossrec.copurchase.weight import GRID
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import ConfigError, DataError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.purchases import purchases_of, term_of
from xcrossrec.recommender import Recommender, learn

ITEMS = pl.DataFrame({"item_id": list(TINY_ITEMS), "title": list(TINY_ITEMS.values())})
FIRST = interactions_of(TINY_SEQUENCES["train"])
LATER = pl.DataFrame(
    {
        "customer": ["u9", "u0", "u9", "u0"],
        "sku": ["i5", "i5", "i1", "i0"],
        "time": [1_700_000_300, 1_700_000_200, 1_700_000_100, 1_700_000_000],
    }
)


@pytest.fixture
def model(tiny_models: Any, tmp_path: Path) -> Path:
    shutil.copytree(tiny_models.late, tmp_path / "model")
    return tmp_path / "model"


def test_a_model_learns_and_goes_on_learning(model: Path, tmp_path: Path) -> None:
    before = bundle.load(model)
    first = xcrossrec.learn(model, FIRST, ITEMS)
    assert (first.purchases, first.customers, first.added) == (10, 3, 10)
    assert first.copurchase is not None
    assert set(first.copurchase.weights.values()) <= set(GRID)
    weights = purchases_of(bundle.load(model)).weights  # type: ignore[union-attr]
    LATER.write_csv(tmp_path / "later.csv")
    later = xcrossrec.learn(model, tmp_path / "later.csv")
    assert (later.purchases, later.customers, later.added) == (13, 4, 3)  # u0 had bought i0
    assert later.copurchase is None
    after = bundle.load(model)
    term = term_of(after)
    assert term is not None
    assert term.weights == weights
    assert term.counts.of_user("u0") == ("i0", "i1", "i2", "i5")
    assert term.counts.of_user("u9") == ("i1", "i5")  # in the order of their times
    assert fingerprint_of(before) == fingerprint_of(after)
    again = xcrossrec.learn(model, [tmp_path / "later.csv"])
    assert (again.purchases, again.added) == (13, 0)


def test_what_else_lies_in_the_folder_stays(model: Path) -> None:
    before = bundle.read_bundle_manifest(model)
    users = pl.read_parquet(model / "training_users.parquet")
    xcrossrec.learn(model, FIRST, ITEMS)
    after = bundle.read_bundle_manifest(model)
    assert pl.read_parquet(model / "training_users.parquet").equals(users)
    kept = ("kind", "domain", "parameters", "base", "recipe", "text")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    changed = {name for name, digest in before["files"].items() if after["files"].get(name) != digest}
    assert changed == {"modules.json"} or not changed
    assert after["metrics"]["copurchase"]["counted"] == 3


def test_a_model_of_the_format_before_is_written_anew(model: Path) -> None:
    manifest = json.loads((model / "xcrossrec.json").read_text())
    (model / "xcrossrec.json").write_text(json.dumps({**manifest, "format_version": 4}))
    assert term_of(bundle.load(model)) is None
    xcrossrec.learn(model, FIRST, ITEMS)
    assert bundle.read_bundle_manifest(model)["format_version"] == 5


def test_the_next_answer_knows_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "weighed", lambda *_, **__: _Chosen())
    xcrossrec.learn(model, FIRST, ITEMS)
    with Recommender.from_pretrained(model, ITEMS) as recommender:
        said = recommender.explain(["i3"], "i4")
    assert said.copurchase_effect == pytest.approx(8.0 / (1 + 10) ** 0.5 / (2 + 10) ** 0.5)
    assert said.matches[0].bought_together == 1


class _Chosen(xcrossrec.copurchase.weight.Choice):
    def __init__(self) -> None:
        super().__init__({"one": 8.0, "several": 8.0}, {}, 3, 3)


def test_without_a_catalogue_there_must_be_weights(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"knows no purchases yet, .*: give the catalogue .*\(--catalog\)"):
        xcrossrec.learn(model, FIRST)


def test_purchases_of_another_catalogue_are_refused(model: Path) -> None:
    others = ITEMS.with_columns(pl.col("item_id").str.replace("i", "x"))
    with pytest.raises(
        DataError, match=r"none of the 6 items that were bought \('i0' first\) is in the catalogue of 6"
    ):
        xcrossrec.learn(model, FIRST, others)
    assert term_of(bundle.load(model)) is None


def test_a_pair_model_learns_nothing(tiny_models: Any) -> None:
    with pytest.raises(ModelError, match="a pair model knows no purchases"):
        xcrossrec.learn(tiny_models.pair, FIRST, ITEMS)


def test_the_command(model: Path, tmp_path: Path) -> None:
    LATER.write_csv(tmp_path / "later.csv")
    ITEMS.write_csv(tmp_path / "items.csv")
    words = ["learn", str(model), "--interactions", str(tmp_path / "later.csv")]
    said = CliRunner().invoke(app, [*words, "--catalog", str(tmp_path / "items.csv")])
    assert said.exit_code == 0, said.output
    assert "4 purchases are new; it knows 4 of 2 customers now" in said.output
    assert "Beside the text: co-purchases of 2 customers" in said.output
    again = CliRunner().invoke(app, [*words, "--column", "time=time"])
    assert again.stdout == f"{model}: 0 purchases are new; it knows 4 of 2 customers now\n"


def test_whoever_is_asked_about_what_the_model_learned_is_counted(model: Path, tiny_domain: Domain) -> None:
    """`evaluate` says that these ranks are too good."""
    split = "validation"
    sequences, ids = tiny_domain.sequences(split), tiny_domain.items["item_id"].to_list()
    user, rows = sequences.user_ids[0], [ids[row] for row in sequences.rows[0]]
    assert scorer_for(model, tiny_domain).known_targets(tiny_domain, split) == 0
    bought = interactions_of({user: " ".join(rows)})
    xcrossrec.learn(model, bought[:-1], ITEMS)
    assert scorer_for(model, tiny_domain).known_targets(tiny_domain, split) == 0
    xcrossrec.learn(model, bought)
    assert scorer_for(model, tiny_domain).known_targets(tiny_domain, split) == 1
