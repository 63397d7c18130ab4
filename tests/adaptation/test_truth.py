"""What a reason names is taken away, and the score falls as it claims; a false reason is found out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from xcrossrec.adaptation.truth import check_explanations, claims_of
from xcrossrec.copurchase import CoPurchases
from xcrossrec.data import Domain
from xcrossrec.models import bundle
from xcrossrec.models.purchases import with_counts
from xcrossrec.recommender import Recommender

FOUR = ["i0", "i1", "i2"]


@pytest.fixture(params=["late", "merged", "pair"])
def form(request: pytest.FixtureRequest, tiny_models: Any, tiny_domain: Domain) -> Iterator[Recommender]:
    with Recommender(bundle.load(getattr(tiny_models, request.param)), tiny_domain) as recommender:
        yield recommender


@pytest.fixture
def knowing(tiny_models: Any, tiny_domain: Domain) -> Iterator[Recommender]:
    """Merged, with what was bought in train."""
    counts = CoPurchases.count(tiny_domain.frame("train"))
    model = with_counts(bundle.load(tiny_models.merged), counts, {"one": 1.0, "several": 1.0})
    with Recommender(model, tiny_domain) as recommender:
        yield recommender


def test_what_a_form_claims_holds(form: Recommender) -> None:
    claims = claims_of(form, FOUR)
    assert claims[0].reason == "history"
    for claim in claims:
        assert claim.measured == pytest.approx(claim.claimed, rel=0.01, abs=1e-4)


def test_a_source_is_named_where_one_adds(tiny_models: Any, tiny_domain: Domain) -> None:
    named = []
    for folder in (tiny_models.late, tiny_models.merged):
        with Recommender(bundle.load(folder), tiny_domain) as recommender:
            named += [claim for claim in claims_of(recommender, ["i3", "i4"]) if claim.reason == "source"]
    assert named
    assert all(claim.holds for claim in named)


def test_co_purchases_are_taken_away(knowing: Recommender) -> None:
    claims = {claim.reason: claim for claim in claims_of(knowing, ["i0", "i1"])}
    assert claims["bought together"].claimed > 0
    assert all(claim.holds for claim in claims.values())


def test_a_false_reason_is_found_out(knowing: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    true = knowing.explain_many

    def boasting(*asked: Any) -> list[Any]:
        return [replace(each, copurchase_effect=2 * (each.copurchase_effect or 0)) for each in true(*asked)]

    monkeypatch.setattr(knowing, "explain_many", boasting)
    false = [claim.reason for claim in claims_of(knowing, ["i0", "i1"]) if not claim.holds]
    assert false == ["bought together"]


def test_the_share_of_customers_with_its_interval(knowing: Recommender, tiny_domain: Domain) -> None:
    found = check_explanations(knowing, tiny_domain, split="train")
    assert found is not None
    assert (found.checked, found.share) == (3, found.fell / 3)
    of_three = {3: (0.4385, 1.0), 2: (0.2077, 0.9385), 1: (0.0615, 0.7923), 0: (0.0, 0.5615)}  # by Wilson's formula
    assert (found.low, found.high) == pytest.approx(of_three[found.fell], abs=1e-4)
    assert check_explanations(knowing, tiny_domain, split="train", users=1).checked == 1  # type: ignore[union-attr]


def test_nothing_to_take_away_is_no_share(tiny_models: Any, tiny_domain: Domain) -> None:
    one = replace(tiny_domain, interactions={"test": tiny_domain.frame("test").filter(user_id="u6")})
    with Recommender(bundle.load(tiny_models.sources[0]), tiny_domain) as recommender:
        assert check_explanations(recommender, one) is None
