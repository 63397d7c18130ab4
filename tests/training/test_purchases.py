"""A trained target knows what its customers bought, as far as that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.copurchase.weight import GRID
from xcrossrec.data import Domain, build_domain, with_shared_users
from xcrossrec.exceptions import ModelError
from xcrossrec.models import bundle
from xcrossrec.models.day_one import day_one_of
from xcrossrec.models.purchases import purchases_of, term_of
from xcrossrec.recommender import Question, Recommender
from xcrossrec.training.loop import TrainingReport
from xcrossrec.training.purchases import with_purchases
from xcrossrec.training.source import train_source
from xcrossrec.training.target import train_target

THERE = [{"item_id": "pan", "title": "kitchen pan 5"}, {"item_id": "tent", "title": "quilted tent, blue"}]


@pytest.fixture(scope="module")
def shared_domain(target_domain: Domain) -> Domain:
    """All customers bought something elsewhere, too."""
    users = target_domain.sequences("train").user_ids
    bought = [{"user_id": user, "item_id": THERE[n % 2]["item_id"], "position": 0} for n, user in enumerate(users)]
    return with_shared_users(target_domain, [build_domain("another", THERE, {"train": bought})])


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, two_sources: list[Path], shared_domain: Domain, settings: Any
) -> tuple[Path, TrainingReport]:
    out = tmp_path_factory.mktemp("purchases") / "model"
    config = settings(epochs=1, learning_rate=1e-6)
    return out, train_target(shared_domain, two_sources, out, config=config, budget=40, show_progress=False)


def test_all_users_of_the_budget_are_counted(made: tuple[Path, TrainingReport], target_domain: Domain) -> None:
    term = term_of(bundle.load(made[0]))
    users = target_domain.sequences("train").take(40, 0)
    assert term is not None
    assert term.counts.customers == 40  # those set aside for early stopping, too
    for user, rows in zip(users.user_ids, users.rows, strict=True):
        assert term.counts.of_user(user) == tuple(dict.fromkeys(f"i{row}" for row in rows))


def test_the_choice_is_told_and_recorded(made: tuple[Path, TrainingReport]) -> None:
    out, report = made
    assert report.copurchase is not None
    assert set(report.copurchase.weights.values()) <= set(GRID)
    assert max(report.copurchase.weights.values()) > 0  # these users go on from an item to one of like number
    metrics = json.loads((out / "xcrossrec.json").read_text())["metrics"]
    assert metrics["copurchase"]["weights"] == report.copurchase.weights
    assert term_of(bundle.load(out)).weights == report.copurchase.weights  # type: ignore[union-attr]


def test_the_bridge_is_fitted_where_users_are_shared(made: tuple[Path, TrainingReport], shared_domain: Domain) -> None:
    day_one = day_one_of(bundle.load(made[0]))
    assert day_one is not None
    assert day_one.bridge is not None
    assert len(day_one.bridge.customers) == 40
    assert set(day_one.weights) == {"none", "other", "one", "several"}
    with Recommender.from_pretrained(made[0], shared_domain) as recommender:
        assert recommender.ask(Question([], other_history=["kitchen pan 5"])).rung == "other"


def test_a_rival_may_know_them_and_a_source_does_not(
    target_domain: Domain, tiny_base: str, two_sources: list[Path], settings: Any, tmp_path: Path
) -> None:
    out, options = tmp_path / "rival", {"base": tiny_base, "show_progress": False, "purchases": True}
    report = train_source(target_domain, out, config=settings(epochs=1, learning_rate=1e-6), **options)
    assert report.copurchase is not None
    assert purchases_of(bundle.load(out)) is not None
    assert purchases_of(bundle.load(two_sources[0])) is None
    assert bundle.read_bundle_manifest(two_sources[0])["metrics"]["copurchase"] is None


def test_who_bought_one_thing_counts_where_no_budget_is_given(
    target_domain: Domain, two_sources: list[Path], settings: Any, tmp_path: Path
) -> None:
    """As most customers of a new category: nothing is trained on them, but they say what sells and who buys it."""
    once = [{"user_id": f"new{n}", "item_id": "i3", "position": 0} for n in range(50)]
    train = pl.concat([target_domain.frame("train"), pl.DataFrame(once)])
    bought = [{"user_id": each["user_id"], "item_id": "pan", "position": 0} for each in once]
    kitchen = build_domain("another", THERE, {"train": bought})
    domain = with_shared_users(build_domain("target", target_domain.items, {"train": train}), [kitchen])
    options: dict[str, Any] = {"config": settings(epochs=1, learning_rate=1e-6), "show_progress": False}
    train_target(domain, two_sources, tmp_path / "target", **options)
    train_source(domain, tmp_path / "rival", init=two_sources[0], purchases=True, **options)
    everybody = set(domain.frame("train")["user_id"])
    for folder in ("target", "rival"):
        term = term_of(bundle.load(tmp_path / folder))
        assert term is not None
        assert term.counts.customers == len(everybody)
    day_one = day_one_of(bundle.load(tmp_path / "target"))
    assert day_one is not None
    assert day_one.bridge is not None
    assert len(day_one.bridge.customers) == 50
    assert day_one.popularity["bought"].sum() == domain.frame("train").unique(["user_id", "item_id"]).height


def test_a_pair_model_has_none(tiny_models: Any, target_domain: Domain) -> None:
    with pytest.raises(ModelError, match="a pair model knows no purchases"):
        with_purchases(bundle.load(tiny_models.pair), target_domain, target_domain.sequences("train"))
