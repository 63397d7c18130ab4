"""A recommender learns: what is bought changes the next answer, of the customer and of those who bought the same."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec.catalogue import Purchase, build_catalogue
from xcrossrec.copurchase import CoPurchases
from xcrossrec.models import bundle
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import term_of, with_counts
from xcrossrec.recommender import Question, Recommender

N = 40
WORDS = ("red", "blue", "wooden", "train", "track", "drill", "bit", "tape", "saw")
ITEMS = pl.DataFrame(
    {"item_id": [f"i{n}" for n in range(N)], "title": [f"{WORDS[n % 9]} {WORDS[n * 7 % 8]} {n}" for n in range(N)]}
)
TRAINED = [(f"u{n % 12}", f"i{n * 7 % 30}") for n in range(60)]


def table(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")


@pytest.fixture
def model(tiny_models: Any) -> Model:
    counts = CoPurchases.count(table(TRAINED))
    return with_counts(bundle.load(tiny_models.late), counts, {"one": 0.3, "several": 0.8})


def answers(recommender: Recommender, **named: Any) -> list[tuple[str, float]]:
    found = recommender.recommend(k=N, **named)
    return [(each.item_id, round(each.score, 5)) for each in found]


def reference(model: Model, rows: list[tuple[str, str]], **named: Any) -> list[tuple[str, float]]:
    """Answers of a model that was given all purchases at once."""
    term = term_of(model)
    assert term is not None
    with Recommender(with_counts(model, CoPurchases.count(table(rows)), term.weights), ITEMS) as recommender:
        return answers(recommender, **named)


def test_each_purchase_changes_the_next_answer_as_if_it_had_been_counted_at_first(model: Model) -> None:
    new = [("u3", "i35"), ("anna", "i2"), ("anna", "i36"), ("bo", "i36"), ("bo", "i38"), ("anna", "i7")]
    with Recommender(model, ITEMS) as recommender:
        for number, bought in enumerate(new, start=1):
            before = answers(recommender, history=[bought[1]])
            recommender.catalogue.add_purchases([Purchase(*bought)])
            for history in (["i2"], ["i36", "i0"], [bought[1]]):
                wanted = reference(model, [*TRAINED, *new[:number]], history=history)
                assert answers(recommender, history=history) == wanted
            if number not in (2, 4):  # the first of these customers, who bought nothing else yet
                assert answers(recommender, history=[bought[1]]) != before
    assert term_of(model).counts.purchases == len(set(TRAINED))  # type: ignore[union-attr]


def test_a_purchase_that_is_known_changes_nothing(model: Model) -> None:
    with Recommender(model, ITEMS) as recommender:
        before = answers(recommender, history=["i7", "i14"])
        assert len(recommender.catalogue.add_purchases([Purchase(*TRAINED[3])])) == 1  # the model knows it
        assert answers(recommender, history=["i7", "i14"]) == before
        recommender.catalogue.add_purchases([Purchase("anna", "i7"), Purchase("anna", "i39")])
        after = answers(recommender, history=["i7", "i14"])
        assert after != before
        recommender.catalogue.add_purchases([Purchase("anna", "i39"), Purchase("anna", "i7")])
        assert answers(recommender, history=["i7", "i14"]) == after


def test_what_is_known_of_a_customer_stands_before_the_history(model: Model) -> None:
    with Recommender(model, ITEMS) as recommender:
        catalogue = recommender.catalogue
        catalogue.add_purchases([Purchase("anna", "gone"), Purchase("anna", "i5"), Purchase("anna", "i9")])
        assert answers(recommender, user_id="anna") == answers(recommender, history=["i5", "i9"])
        longer = answers(recommender, history=["i5", "i9", "i1"])
        assert answers(recommender, history=["i1"], user_id="anna") == longer
        again = answers(recommender, history=["i9", "i5", "i1"])
        assert answers(recommender, history=["i5", "i1"], user_id="anna") == again  # bought once more: it is the newer
        trained = [item for user, item in dict.fromkeys(TRAINED) if user == "u4"]
        assert answers(recommender, user_id="u4") == answers(recommender, history=trained)
        assert answers(recommender, history=["i1"], user_id="nobody") == answers(recommender, history=["i1"])
        known = recommender.ask(Question(user_id="anna", to_score=["i3"]))
        assert [each.item_id for each in known.history] == ["i5", "i9"]
        catalogue.add_purchases([Purchase("anna", "i11")])
        assert "i11" not in dict(answers(recommender, user_id="anna"))
        assert "i11" in dict(answers(recommender, user_id="anna", include_bought=True))
        assert recommender.ask(Question(user_id="nobody")).rung == "none"


def test_of_many_purchases_the_newest_stand_before_the_history_and_none_is_recommended(model: Model) -> None:
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(80)], "title": [f"Thing {n}" for n in range(80)]})
    with Recommender(model, items) as recommender:
        recommender.catalogue.add_purchases([Purchase("bot", f"i{n}") for n in range(70)])
        found = recommender.ask(Question(["i75"], 80, user_id="bot"))
        assert [each.item_id for each in found.history] == [*(f"i{n}" for n in range(20, 70)), "i75"]
        assert {each.item_id for each in found.recommendations} == {f"i{n}" for n in range(70, 80) if n != 75}


@pytest.mark.parametrize("kind", ["late", "pair"])
def test_a_model_without_counts_still_knows_its_customers(tiny_models: Any, kind: str) -> None:
    with Recommender(bundle.load(getattr(tiny_models, kind)), ITEMS.head(9)) as recommender:
        before = answers(recommender, history=["i2", "i4"])
        recommender.catalogue.add_purchases([Purchase("anna", "i2"), Purchase("anna", "i4"), Purchase("bo", "i4")])
        assert answers(recommender, user_id="anna") == answers(recommender, history=["i2", "i4"]) == before


def test_purchases_are_known_after_opening_again_and_to_the_next_model(
    model: Model, tiny_models: Any, tmp_path: Path
) -> None:
    new = [("anna", "i2"), ("anna", "i36"), ("u3", "i36")]
    with Recommender(model, build_catalogue(model, ITEMS, tmp_path / "c")) as recommender:
        recommender.catalogue.add_purchases([Purchase(*each) for each in new])
        wanted = answers(recommender, history=["i36"])
    with Recommender(model, tmp_path / "c") as recommender:
        assert answers(recommender, history=["i36"]) == wanted
        assert answers(recommender, user_id="anna") == reference(model, [*TRAINED, *new], user_id="anna")
        other = with_counts(bundle.load(tiny_models.late), CoPurchases.count(table(new)), {"one": 0.3})  # same vectors
        with Recommender(other, recommender.catalogue) as second:
            assert answers(second, history=["i36"]) == reference(other, new, history=["i36"])


def test_who_is_forgotten_was_never_there(model: Model, tmp_path: Path) -> None:
    """To model and catalogue, for a customer of either, before and after the catalogue is opened again."""
    new = [("anna", "i2"), ("anna", "i36"), ("u3", "i36"), ("bo", "i36"), ("bo", "i2")]
    left = [each for each in [*TRAINED, *new] if each[0] not in ("u3", "anna")]
    with Recommender(model, build_catalogue(model, ITEMS, tmp_path / "c")) as recommender:
        catalogue = recommender.catalogue
        catalogue.add_purchases([Purchase(*each) for each in new])
        before = answers(recommender, history=["i36"])
        assert (catalogue.forget("anna"), catalogue.forget("u3")) == (2, 1)
        for history in (["i36"], ["i7", "i14"], []):
            assert answers(recommender, history=history) == reference(model, left, history=history)
        assert answers(recommender, history=["i36"]) != before
        assert [recommender.ask(Question(user_id=user)).rung for user in ("anna", "u3")] == ["none", "none"]
        assert term_of(model).counts.of_user("u3") == ()  # type: ignore[union-attr]
        catalogue.add_purchases([Purchase("anna", "i5")])
        assert answers(recommender, history=[]) == reference(model, [*left, ("anna", "i5")], history=[])
        late = CoPurchases.count(table(TRAINED))  # a bundle that was read before, and is served after
        with Recommender(with_counts(deepcopy(model), late, {"one": 0.3}), catalogue) as second:
            assert second.ask(Question(user_id="u3")).rung == "none"
            assert second.ask(Question(user_id="anna")).rung == "one"
    late = CoPurchases.count(table(TRAINED))
    with Recommender(with_counts(deepcopy(model), late, {"one": 0.3}), tmp_path / "c") as restarted:
        assert answers(restarted, history=["i36"]) == reference(model, [*left, ("anna", "i5")], history=["i36"])
        assert [restarted.ask(Question(user_id=user)).rung for user in ("anna", "u3")] == ["one", "none"]


def test_two_recommenders_of_one_copy_count_once(model: Model) -> None:
    """As the service has them, for answers and for explanations."""
    with Recommender(model, ITEMS) as first:
        second = Recommender(deepcopy(model), first.catalogue, bought=first.bought)
        first.catalogue.add_purchases([Purchase("anna", "i2"), Purchase("anna", "i36")])
        assert answers(second, history=["i36"]) == answers(first, history=["i36"])
        assert answers(first, history=["i36"]) == reference(
            model, [*TRAINED, ("anna", "i2"), ("anna", "i36")], history=["i36"]
        )


def test_answers_stay_right_while_purchases_come_in(model: Model) -> None:
    """Readers see, of customers who all buy i1 and then i39, a growing score and in the end the right one."""
    with Recommender(model, ITEMS) as recommender:
        done, seen = Event(), list[float]()

        def read() -> None:
            while not done.is_set():
                seen.append(recommender.score(["i1"], ["i39"])[0].score)

        reader = Thread(target=read)
        reader.start()
        new = [("c" + str(n), item) for n in range(150) for item in ("i1", "i39")]
        for number, bought in enumerate(new):
            recommender.catalogue.add_purchases([Purchase(*bought)])
            until = monotonic() + 60
            while number % 30 == 29 and len(seen) < number // 30 and monotonic() < until:
                sleep(0.001)
        done.set()
        reader.join()
        assert len(seen) > 3
        last = recommender.score(["i1"], ["i39"])[0].score
        assert last == pytest.approx(dict(reference(model, [*TRAINED, *new], history=["i1"]))["i39"], abs=2e-5)
        assert np.diff(seen).min() > -0.1  # one who bought i1 alone lowers it a little
        assert last > seen[0]
