"""What a large shop costs: texts are read once, and nothing is begun that the minutes do not allow."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from xcrossrec.adaptation import after, candidates, run
from xcrossrec.adaptation.candidates import BASE, Maker, Plan
from xcrossrec.adaptation.decision import Decision
from xcrossrec.adaptation.run import adapt
from xcrossrec.adaptation.shop import Clock, Missing, Shop
from xcrossrec.data import Domain, build_domain, with_shared_users
from xcrossrec.evaluation import evaluate
from xcrossrec.models import dual, scorer
from xcrossrec.models.day_one import day_one_of
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.progress import stage
from xcrossrec.training import day_one
from xcrossrec.types import ITEM

ITEMS, CUSTOMERS = 40, 90
SPLITS = {"train": 2, "validation": 3, "test": 3}
"""Purchases that each has of every customer."""


@pytest.fixture(scope="module")
def target() -> Domain:
    """Customers who buy here what suits what they bought elsewhere, each something of her own there too."""
    bought = [[4 * (user % 10) + (user // 10 + step) % 4 for step in range(3)] for user in range(CUSTOMERS)]
    here = [
        {"user_id": f"u{user}", ITEM: f"i{row}", "position": place}
        for user, rows in enumerate(bought)
        for place, row in enumerate(rows)
    ]
    splits = {split: [each for each in here if each["position"] < most] for split, most in SPLITS.items()}
    items = [{ITEM: f"i{row}", "title": f"w{row % 10} w{row}"} for row in range(ITEMS)]
    there = [{ITEM: f"there{user}", "title": f"w{user % 10} elsewhere {user}"} for user in range(CUSTOMERS)]
    purchases = [{"user_id": f"u{user}", ITEM: f"there{user}", "position": 0} for user in range(CUSTOMERS)]
    shared = build_domain("elsewhere", there, {"train": purchases})
    return with_shared_users(build_domain("garden", items, splits), [shared])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text was read."""
    counts: Counter[str] = Counter()

    def counting(model: Any, texts: Sequence[str], **told: Any) -> Any:
        counts.update(set(texts))
        return encode_titles(model, texts, **told)

    for module in (dual, scorer, day_one):
        monkeypatch.setattr(module, "encode_titles", counting)
    monkeypatch.setattr(candidates, "reads_in", lambda: "fp32")
    return counts


def made(target: Domain, out: Path, base: Path, minutes: float, text_s: float | None = None) -> Maker:
    with stage("testing", "steps") as bar:
        shop = Shop(target, out, seed=0, clock=Clock(minutes), bar=bar, facts={})
    shop.pace.text_s = text_s
    return Maker(shop, str(base), Plan())


def test_a_text_of_another_category_is_read_once_by_a_model(
    target: Domain, tiny_models: Any, tmp_path: Path, read: Counter[str]
) -> None:
    """It was read for the bridge, and to rank the users, each time without and with what is bought together."""
    maker = made(target, tmp_path, tiny_models.base, 10)
    maker.text(BASE)
    assert [each.form.name for each in maker.shop.fitted.values()] == ["base", "base-bought"]
    elsewhere = {text: count for text, count in read.items() if "elsewhere" in text}
    assert len(elsewhere) == CUSTOMERS
    assert set(elsewhere.values()) == {1}
    assert maker.shop.pace.elsewhere == CUSTOMERS
    assert max(read[title] for title in target.titles) <= 5  # once to rank: so few are all of a sample, too


def test_both_forms_of_a_text_have_the_first_day_that_each_would_have(
    target: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "reads_in", lambda: "fp32")
    maker = made(target, tmp_path, tiny_models.base, 10)
    maker.text(BASE)
    told = [day_one_of(maker.load(each.model).model) for each in maker.shop.fitted.values()]
    alone = day_one_of(day_one.with_day_one(maker.scorer().model, target, maker.shop.users))
    assert alone is not None
    assert alone.bridge is not None
    for each in told:
        assert each is not None
        assert each.bridge is not None
        assert each.weights == alone.weights
        assert each.bridge.item_ids == alone.bridge.item_ids
        assert (each.bridge.ridge - alone.bridge.ridge).abs().max() < 1e-4


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_what_was_bought_elsewhere_is_read_where_it_counts(
    target: Domain, tiny_models: Any, tmp_path: Path, read: Counter[str], share: float
) -> None:
    maker = made(target, tmp_path, tiny_models.base, 10)
    maker.text(BASE)
    asked = maker.load(maker.shop.fitted["base"].model)
    fitted = day_one_of(asked.model)
    assert fitted is not None
    assert fitted.bridge is not None
    fitted.weights = {rung: {"bridge": share} for rung in ("one", "several")}
    evaluate(asked, target, "test", negatives=["full"])
    assert asked.read_elsewhere == (CUSTOMERS if share else 0)


def test_a_catalogue_that_takes_longer_than_the_minutes_is_not_read(
    target: Domain, tiny_models: Any, tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first text had no estimate: it was read for as long as it took, whatever the minutes."""
    maker = made(target, tmp_path, tiny_models.base, 2)
    monkeypatch.setattr(Maker, "_measure", lambda self, model: setattr(self.shop.pace, "text_s", 1.0))
    assert maker.text(BASE) is None
    found = maker.shop.found["base"]
    assert isinstance(found, Missing)
    assert ITEMS + CUSTOMERS <= found.seconds < ITEMS + CUSTOMERS + 60  # and what ranking takes
    assert " min left: give more --minutes" in found.why
    assert read.total() <= ITEMS  # of a large catalogue 1,024 texts, by which all are centered


@pytest.mark.parametrize(("minutes", "most"), [(10.0, 150), (2.5, 20)])
def test_a_source_is_trained_in_what_the_reading_after_it_leaves(
    target: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, most: float
) -> None:
    """It took half of the minutes left, and then there were too few to read the catalogue by it."""
    shares: list[float] = []

    def instead(each: object, shop: object, base: str, plan: object, seconds: float) -> None:
        shares.append(seconds)

    monkeypatch.setattr(Maker, "_measure", lambda self, model: setattr(self.shop.pace, "text_s", 1.0))
    monkeypatch.setattr(run, "ready", instead)
    monkeypatch.setattr(run, "parts_below", lambda *_: ())
    adapt(target, list(tiny_models.sources), out=tmp_path / "out", base=str(tiny_models.base), minutes=minutes)
    assert most - 20 < shares[0] <= most


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """By which sources the catalogue is read to rank it."""
    found: list[tuple[str, ...]] = []
    read_text = candidates.read_text

    def told(domain: Domain, sources: Sequence[Any], base: str) -> ModelScorer:
        found.append(tuple(each.name for each in sources))
        return read_text(domain, sources, base)

    def refused(*_: object) -> None:
        raise RuntimeError("nothing is trained here")

    monkeypatch.setattr(candidates, "read_text", told)
    monkeypatch.setattr(candidates, "_from_where_it_was", refused)
    return found


def test_the_catalogue_is_read_once_by_each_text_and_once_to_show_what_is_shipped(
    target: Domain, tiny_models: Any, tmp_path: Path, texts: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    open_one = after.Recommender.from_pretrained

    def told(path: Path, *args: Any, **given: Any) -> Any:
        opened.append(path)
        return open_one(path, *args, **given)

    monkeypatch.setattr(after.Recommender, "from_pretrained", told)
    monkeypatch.setattr(after, "_EXPLAINED", 3)
    monkeypatch.setattr(run, "choose", lambda *_: "base")
    given = {"sources": list(tiny_models.sources), "base": str(tiny_models.base), "out": tmp_path / "out"}
    first = adapt(target, **given)
    assert sorted(texts) == [(), ("camping",), ("kitchen",), ("kitchen", "camping")]
    assert first.customers is not None
    assert first.explanations is not None
    assert opened == [tmp_path / "out" / "model"]


def test_sources_that_there_is_no_time_to_judge_are_used(
    target: Domain,
    tiny_models: Any,
    tmp_path: Path,
    texts: list[tuple[str, ...]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is kept was read again to judge sources, by the base and by each, whatever the minutes."""
    monkeypatch.setattr(run, "parts_below", lambda *_: ())
    given = {"sources": list(tiny_models.sources), "base": str(tiny_models.base), "out": tmp_path / "out"}
    adapt(target, **given)
    (tmp_path / "out" / "work" / "judged.json").unlink()
    texts.clear()
    with caplog.at_level(logging.INFO, "xcrossrec.adaptation"):
        found: Decision = adapt(target, **given, minutes=1e-6)
    assert not texts
    assert found.sources == ()
    assert "sources are not judged, so all are used: to read the catalogue again takes" in caplog.text
    assert found.candidate("mean").status == "fitted"
    adapt(target, **given)
    assert sorted(texts) == [(), ("camping",), ("kitchen",)]
