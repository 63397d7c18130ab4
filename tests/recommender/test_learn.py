"""Purchases that came after the training: counted with those that the model knows, in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import polars as pl
import pytest
from typer.testing import CliRunner

import xcrossrec
from conftest import TINY_ITEMS, TINY_SEQUENCES, interactions_of
from xcrossrec.baselines.named import scorer_for
from xcrossrec.catalogue import Purchase, build_catalogue, fingerprint_of, recorded_purchases
from xcrossrec.catalogue.purchases import PurchaseLog, as_table
from xcrossrec.cli import app
from xcrossrec.copurchase import CoPurchases, user_hash
from xcrossrec.copurchase.weight import GRID
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.day_one import DayOne, day_one_of
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.purchases import purchases_of, term_of, with_counts
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


def test_purchases_may_be_rows_of_python(model: Path) -> None:
    rows = [{"user_id": "u9", "item_id": item, "timestamp": time} for time, item in enumerate(["i5", "i1"])]
    assert xcrossrec.learn(model, rows, ITEMS).added == 2


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


def test_a_day_without_a_purchase_changes_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text("customer,sku,time\n")
    with pytest.raises(DataError, match="none of the 0 items that were bought"):
        xcrossrec.learn(model, tmp_path / "day.csv", ITEMS)
    xcrossrec.learn(model, FIRST, ITEMS)
    learned = xcrossrec.learn(model, tmp_path / "day.csv")
    assert (learned.purchases, learned.added) == (10, 0)
    (tmp_path / "day.csv").write_text("")
    with pytest.raises(DataError, match="is empty: give a file with rows"):  # not even a header: a copy that failed
        xcrossrec.learn(model, tmp_path / "day.csv")


def test_what_ranks_by_best_sellers_alone_gets_no_weight_beside_a_text(model: Path, tmp_path: Path) -> None:
    """As `adapt` ships it: all customers get the same, and the reason says so."""
    popularity = pl.DataFrame({"item_id": list(TINY_ITEMS), "lately": [0.0] * 6, "bought": [0] * 6})
    only = {"text": 0.0, "popularity": 1.0}
    known = with_counts(bundle.load(model), CoPurchases.count(FIRST), {})
    day_one = DayOne(32, popularity, {"none": {"popularity": 1.0}, "one": only, "several": only})
    manifest = bundle.read_bundle_manifest(model)
    bundle.save(kind_of(known).assemble([*known, day_one]), model, manifest, overwrite=True)
    assert xcrossrec.learn(model, FIRST, ITEMS).copurchase is None
    assert not purchases_of(bundle.load(model)).weights  # type: ignore[union-attr]
    words = ["learn", str(model), "--interactions", str(tmp_path / "later.csv"), "--catalog", str(tmp_path / "i.csv")]
    LATER.write_csv(tmp_path / "later.csv")
    ITEMS.write_csv(tmp_path / "i.csv")
    said = CliRunner().invoke(app, words)
    assert "no weight to choose" in said.stdout, said.output


def test_purchases_of_another_catalogue_are_refused(model: Path) -> None:
    others = ITEMS.with_columns(pl.col("item_id").str.replace("i", "x"))
    with pytest.raises(
        DataError, match=r"none of the 6 items that were bought \('i0' first\) is in the catalogue of 6"
    ):
        xcrossrec.learn(model, FIRST, others)
    assert term_of(bundle.load(model)) is None


def test_what_was_acknowledged_while_serving_counts_once(model: Path, tmp_path: Path) -> None:
    """The bundle knows it, the catalogue does, or both do: the counts are the same, and so are the answers."""
    xcrossrec.learn(model, FIRST, ITEMS)
    with Recommender.from_pretrained(model, build_catalogue(bundle.load(model), ITEMS, tmp_path / "c")) as serving:
        serving.catalogue.add_purchases([Purchase("u0", "i0"), Purchase("u9", "i1"), Purchase("u9", "i5")])
        wanted = serving.recommend(user_id="u9")
        with pytest.raises(BundleError, match="is open in another process: stop that one"):
            xcrossrec.learn(model, tmp_path / "c")
    learned = xcrossrec.learn(model, [tmp_path / "c"])
    assert (learned.purchases, learned.customers, learned.added) == (12, 4, 2)  # u0 had bought i0
    with Recommender.from_pretrained(model, tmp_path / "c") as both, Recommender.from_pretrained(model, ITEMS) as alone:
        assert both.recommend(user_id="u9") == alone.recommend(user_id="u9") == wanted
    LATER.write_csv(tmp_path / "later.csv")
    again = xcrossrec.learn(model, [tmp_path / "c", tmp_path / "later.csv"])
    assert (again.purchases, again.added) == (13, 1)


@pytest.fixture
def known(model: Path, tiny_models: Any) -> Path:
    """A model with purchases, popularity and users of its training."""
    popularity = pl.DataFrame({"item_id": ["i0", "i5"], "lately": [1.5, 0.5], "bought": [3, 1]})
    modules = [*with_counts(bundle.load(model), CoPurchases.count(FIRST), {"one": 1.0, "several": 1.0})]
    dim = bundle.load(model)[0].dim
    whole = kind_of(bundle.load(model)).assemble([*modules, DayOne(dim, popularity, {})])
    users = pl.DataFrame({"user": [user_hash("u0"), user_hash("u1")]})
    bundle.save(whole, model, {"kind": "target"}, overwrite=True, tables={"training_users.parquet": users})
    return model


def held(model: Path) -> list[str]:
    """Parquet files that hold a customer of the model."""
    tables = {path.name: pl.read_parquet(path) for path in model.rglob("*.parquet")}
    return sorted(name for name, table in tables.items() if user_hash("u0") in str(table.to_dicts()))


def test_who_is_forgotten_in_a_catalogue_is_so_in_the_model_that_learns_from_it(known: Path, tmp_path: Path) -> None:
    with build_catalogue(bundle.load(known), ITEMS, tmp_path / "c") as made:
        made.add_purchases([Purchase("u0", "i5"), Purchase("bo", "i5")])
        made.forget("u0")
    before = term_of(bundle.load(known)).counts  # type: ignore[union-attr]
    learned = xcrossrec.learn(known, [tmp_path / "c"])
    assert (learned.purchases, learned.added) == (before.purchases - len(before.of_user("u0")) + 1, 1)
    assert held(known) == []
    found = day_one_of(bundle.load(known))
    assert found is not None
    assert found.popularity.rows()[0] == ("i0", 1.0, 2)


def test_who_is_forgotten_in_a_catalogue_comes_back_by_no_file_that_is_learned_with_it(
    known: Path, tmp_path: Path
) -> None:
    with build_catalogue(bundle.load(known), ITEMS, tmp_path / "c") as made:
        made.add_purchases([Purchase("bo", "i5")])
        made.forget("u0")
    LATER.write_csv(tmp_path / "later.csv")
    xcrossrec.learn(known, [tmp_path / "c", tmp_path / "later.csv"])
    counts = term_of(bundle.load(known)).counts  # type: ignore[union-attr]
    assert [counts.of_user(user) for user in ("bo", "u0", "u9")] == [("i5",), (), ("i1", "i5")]
    assert held(known) == []


def test_who_is_forgotten_by_a_service_meanwhile_stays_so(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service forgets her in the catalogue and in the model, between what is read of both and what is written."""
    place = "postgresql://localhost/shop"
    rows = [("u0", "i5", None), ("bo", "i5", None)]
    logs = [PurchaseLog(as_table(rows)), PurchaseLog(as_table(rows[1:]), [user_hash("u0")])]
    monkeypatch.setattr(learn, "recorded_purchases", lambda asked: logs.pop(0) if asked == place else None)
    joined = CoPurchases.joined

    def slowly(self: CoPurchases, purchases: pl.DataFrame) -> CoPurchases:
        monkeypatch.setattr(CoPurchases, "joined", joined)
        learn.forget(known, "u0")
        return joined(self, purchases)

    monkeypatch.setattr(CoPurchases, "joined", slowly)
    xcrossrec.learn(known, place)
    counts = term_of(bundle.load(known)).counts  # type: ignore[union-attr]
    assert [counts.of_user(user) for user in ("bo", "u0")] == [("i5",), ()]
    assert held(known) == []


def test_who_is_forgotten_is_in_no_file_of_the_model(known: Path) -> None:
    others = {path: path.read_bytes() for path in known.rglob("*") if path.is_file() and "arquet" not in path.name}
    hers = term_of(bundle.load(known)).counts.of_user("u0")  # type: ignore[union-attr]
    assert "i0" in hers
    places = {path: path.stat().st_ino for path in others}
    assert held(known) == ["purchases.parquet", "training_users.parquet"]
    with Recommender.from_pretrained(known, ITEMS) as serving:
        serving.catalogue.forget("u0")
        wanted = serving.recommend([])
    assert (learn.forget(known, "u0"), learn.forget(known, "u0"), learn.forget(known, "nobody")) == (len(hers), 0, 0)
    assert held(known) == []
    found = bundle.load(known)
    term, day_one = term_of(found), day_one_of(found)
    assert term is not None
    assert (term.counts.customers, term.counts.of_user("u0")) == (2, ())
    assert day_one is not None
    assert day_one.popularity.rows()[0] == ("i0", 1.0, 2)
    assert Recommender(found, ITEMS).recommend([]) == wanted  # as the service that forgot her answered
    same = {path for path, content in others.items() if path.read_bytes() == content}
    assert {path.name for path in others.keys() - same} == {"xcrossrec.json"}
    assert all(path.stat().st_ino == places[path] for path in same)  # what knows nobody is not written again
    assert all(path.stat().st_nlink == 1 for path in known.rglob("*") if path.is_file())


def test_who_is_forgotten_in_a_model_comes_back_by_no_file(known: Path, caplog: pytest.LogCaptureFixture) -> None:
    learn.forget(known, "nobody")
    assert "forgotten" not in bundle.read_bundle_manifest(known)
    learn.forget(known, "u0")
    learn.forget(known, "u1")
    assert bundle.read_bundle_manifest(known)["forgotten"] == sorted(map(user_hash, ("u0", "u1")))
    for _ in range(2):
        xcrossrec.learn(known, LATER)
        counts = term_of(bundle.load(known)).counts  # type: ignore[union-attr]
        assert [counts.of_user(user) for user in ("u0", "u9")] == [(), ("i1", "i5")]
        assert held(known) == []
    assert caplog.messages == ["2 purchases are left out: their customers were forgotten in this model"] * 2


def test_who_is_forgotten_while_a_file_is_read_that_knows_her_stays_so(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = learn._read

    def slowly(*given: Any) -> Any:
        learn.forget(known, "u0")
        return read(*given)

    monkeypatch.setattr(learn, "_read", slowly)
    xcrossrec.learn(known, LATER)
    assert held(known) == []


def test_who_is_forgotten_is_so_where_a_disk_has_no_second_names(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle.os, "link", Mock(side_effect=OSError("not here")))
    assert learn.forget(known, "u0") > 0
    assert held(known) == []
    bundle.load(known)


def test_what_others_learn_and_forget_meanwhile_stays(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = learn._read

    def slowly(*given: Any) -> Any:
        monkeypatch.setattr(learn, "_read", read)
        xcrossrec.learn(known, [{"user": "di", "item": "i5", "time": 5}])
        learn.forget(known, "u0")
        return read(*given)

    monkeypatch.setattr(learn, "_read", slowly)
    learned = xcrossrec.learn(known, [{"user": "bo", "item": "i1", "time": 5}])
    counts = term_of(bundle.load(known)).counts  # type: ignore[union-attr]
    assert [counts.of_user(user) for user in ("di", "bo", "u0")] == [("i5",), ("i1",), ()]
    assert (learned.added, learned.purchases) == (1, counts.purchases)


def test_a_model_that_is_trained_anew_meanwhile_stays(
    known: Path, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = learn._read

    def slowly(*given: Any) -> Any:
        bundle.save(bundle.load(tiny_models.sources[0]), known, {"kind": "adapter"}, overwrite=True)
        return read(*given)

    monkeypatch.setattr(learn, "_read", slowly)
    with pytest.raises(BundleError, match="replaced by another training meanwhile: nothing was changed; learn again"):
        xcrossrec.learn(known, FIRST)
    assert bundle.read_bundle_manifest(known)["kind"] == "adapter"


def test_the_command_forgets_in_models_and_catalogues(known: Path, tmp_path: Path) -> None:
    with build_catalogue(bundle.load(known), ITEMS, tmp_path / "c") as made:
        made.add_purchases([Purchase("u0", "i5"), Purchase("bo", "i5")])
    said = CliRunner().invoke(app, ["forget", "u0", str(known), str(tmp_path / "c")])
    bought = len(TINY_SEQUENCES["train"]["u0"].split())
    assert said.stdout == f"{known}: {bought} purchases deleted\n{tmp_path / 'c'}: 1 purchases deleted\n"
    assert recorded_purchases(tmp_path / "c").table().rows() == [("bo", "i5", None)]
    nowhere = CliRunner().invoke(app, ["forget", "u0", str(tmp_path / "no")])
    assert nowhere.exit_code == 2
    assert "does not exist: check the path" in nowhere.stderr


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
