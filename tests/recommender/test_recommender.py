"""Recommending, on tiny random models."""
# ruff: noqa: RUF001

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec.catalogue import Catalogue, Filters, StoredItem
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import BundleError, ConfigError, DataError, UnknownItemError
from xcrossrec.models import bundle
from xcrossrec.models.kinds import kind_of
from xcrossrec.recommender import Answer, Item, Question, Recommender, ranking
from xcrossrec.recommender.questions import understand

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

KINDS = ("late", "pair", "shared")


@pytest.fixture(scope="module")
def models(tiny_models: Any) -> dict[str, Any]:
    return {kind: bundle.load(getattr(tiny_models, kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def recommender(request: pytest.FixtureRequest, models: dict[str, Any], tiny_domain: Domain) -> Recommender:
    return Recommender(models[request.param], tiny_domain)


@pytest.fixture
def late(models: dict[str, Any], tiny_domain: Domain) -> Recommender:
    return Recommender(models["late"], tiny_domain)


@pytest.fixture
def pair(models: dict[str, Any], tiny_domain: Domain) -> Recommender:
    return Recommender(models["pair"], tiny_domain)


def test_recommendations_are_the_scorers_ranking_without_what_was_bought(
    recommender: Recommender, tiny_domain: Domain
) -> None:
    found = recommender.recommend(["i0", "i3"], k=3)
    scores = kind_of(recommender.model).scorer(recommender.model, tiny_domain.titles).score([[0, 3]])[0]
    expected = sorted((row for row in range(6) if row not in (0, 3)), key=lambda row: -scores[row])[:3]
    assert [r.item_id for r in found] == [f"i{row}" for row in expected]
    assert [r.rank for r in found] == [1, 2, 3]
    assert [r.title for r in found] == [tiny_domain.titles[row] for row in expected]
    np.testing.assert_allclose([r.score for r in found], scores[expected], atol=1e-5)


def test_bought_items_come_back_when_asked(late: Recommender) -> None:
    assert {r.item_id for r in late.recommend(["i0"], include_bought=True)} == {f"i{n}" for n in range(6)}
    assert late.recommend(["i0"], k=1, include_bought=True)[0].item_id == "i0"


def test_candidates_restrict_and_nothing_left_is_an_empty_list(recommender: Recommender) -> None:
    assert {r.item_id for r in recommender.recommend(["i0"], candidates=["i4", "i2", "i4"])} == {"i2", "i4"}
    assert recommender.recommend(["i0"], candidates=["i0"]) == []


def test_a_free_title_scores_like_the_same_item_by_id(recommender: Recommender, tiny_domain: Domain) -> None:
    by_id = recommender.recommend(["i0", "i1"])
    without = tiny_domain.items.filter(pl.col("item_id") != "i0")
    by_title = Recommender(recommender.model, without).recommend(["Red  wooden\ttrain", "i1"])
    assert [r.item_id for r in by_title] == [r.item_id for r in by_id]
    np.testing.assert_allclose([r.score for r in by_title], [r.score for r in by_id], atol=1e-5)


def test_a_title_that_the_catalogue_has_is_that_item_and_left_out(late: Recommender) -> None:
    assert "i0" not in {r.item_id for r in late.recommend(["Red wooden train"])}


def test_known_items_are_not_encoded_again(late: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late.model, "encode", lambda *args, **kwargs: pytest.fail("encoded"))
    assert len(late.recommend(["i0", "title:Red wooden train"])) == 5


@pytest.mark.parametrize(
    "item",
    [
        "i3",
        "id:i3",
        "title:Cordless drill 18 V",
        "Cordless drill 18 V",
        Item("i3"),
        Item(title="Cordless drill 18 V"),
        {"item_id": "i3"},
        {"title": "Cordless drill 18 V"},
    ],
)
def test_every_form_of_an_item_means_the_same(late: Recommender, item: Any) -> None:
    assert late.recommend([item], k=2) == late.recommend(["i3"], k=2)


def test_a_catalogue_id_wins_over_the_forms(late: Recommender) -> None:
    table = pl.DataFrame({"item_id": ["id:i3", "two words", "x"], "title": ["Drill", "Saw", "Plane"]})
    odd = Recommender(late.model, table)
    assert {r.item_id for r in odd.recommend(["id:i3", "two words"])} == {"x"}


@pytest.mark.parametrize(
    ("entry", "item"),
    [
        ("不锈钢浇水壶", "i0"),  # a title without blanks
        ("กระถางไม้", "i1"),
        ("Cafe\u0301 au lait", "i2"),  # as macOS writes it
        ("АРТ-1", "АРТ-1"),
        ("折りたたみ傘", None),
    ],
)
def test_a_title_of_any_script_is_no_id(late: Recommender, entry: str, item: str | None) -> None:
    titles = ["不锈钢浇水壶", "กระถางไม้", "Café au lait", "Лейка"]
    table = pl.DataFrame({"item_id": ["i0", "i1", "i2", "АРТ-1"], "title": titles})
    found = {each.item_id for each in Recommender(late.model, table).recommend([entry], k=9)}
    assert found == {"i0", "i1", "i2", "АРТ-1"} - {item}
    with pytest.raises(UnknownItemError, match=r"unknown item id 'Лампа'.*write it as 'title:Лампа'"):
        Recommender(late.model, table).recommend(["Лампа"])


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([], DataError, "history is empty"),
        (["B00X"], DataError, r"unknown item id 'B00X'.*write it as 'title:B00X'"),
        (["id:i0 i1"], DataError, "unknown item id 'i0 i1'"),
        (["title: "], DataError, "empty title"),
        (["  "], DataError, "unknown item id"),
        ([{"name": "x"}], DataError, r"got \{'name': 'x'\}"),
        ([{}], DataError, "item_id=None and title=None"),
        ("i0", ConfigError, "history is 'i0': expected a list; put it into one"),
        ([3], ConfigError, r"history\[0\] is 3: expected a text or Item"),
        ([float("nan")], ConfigError, r"history\[0\] is nan"),
    ],
)
def test_a_bad_history_is_refused_by_name(
    late: Recommender, history: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        late.recommend(history)


def test_bad_requests_are_refused(late: Recommender, tiny_models: Any) -> None:
    with pytest.raises(ConfigError, match="k is 0"):
        late.recommend(["i0"], k=0)
    with pytest.raises(DataError, match=r"got \[\]: give at least one"):
        late.recommend(["i0"], candidates=[])
    with pytest.raises(DataError, match="unknown item id 'zzz'"):
        late.recommend(["i0"], candidates=["zzz"])
    with pytest.raises(DataError, match="item_id='a' and title='b'"):
        Item("a", "b")
    with pytest.raises(BundleError, match="does not exist"):
        Recommender.from_pretrained(tiny_models.base / "nothing", late.catalogue)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"item_id": ["a"]}, "lacks the column 'title'"),
        ({"item_id": ["a", "a"], "title": ["One", "Two"]}, "id 'a' twice"),
        ({"item_id": [1.5], "title": ["One"]}, "of type Float64"),
        ({"item_id": [None, "a"], "title": ["One", "Two"]}, "the items of the catalogue lack item_id in 1 rows"),
        ({"item_id": pl.Series([], dtype=pl.String), "title": pl.Series([], dtype=pl.String)}, "has no items"),
    ],
)
def test_a_bad_catalogue_is_refused(late: Recommender, items: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Recommender(late.model, pl.DataFrame(items))


def test_a_catalogue_is_a_domain_a_table_or_a_folder(late: Recommender, tiny_domain: Domain, tmp_path: Path) -> None:
    expected = late.recommend(["i0"])
    write_domain(tiny_domain, tmp_path / "domain")
    tiny_domain.items.write_csv(tmp_path / "items.csv")
    for source in (tmp_path / "domain", str(tmp_path / "domain"), tiny_domain.items, tmp_path / "items.csv"):
        assert Recommender(late.model, source).recommend(["i0"]) == expected


def test_an_item_without_a_title_is_recommended_only_when_named(
    recommender: Recommender, tiny_domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    blank = pl.when(pl.col("item_id") == "i1").then(pl.lit(" ")).otherwise("title").alias("title")
    kept = Recommender(recommender.model, Domain("kept", tiny_domain.items.with_columns(blank), {}))
    assert {r.item_id for r in kept.recommend(["i0"])} == {"i2", "i3", "i4", "i5"}
    assert {r.item_id for r in kept.recommend(["i1"])} == {"i0", "i2", "i3", "i4", "i5"}
    assert [(r.item_id, r.title) for r in kept.recommend(["i0"], candidates=["i1"])] == [("i1", "")]
    untitled = Recommender(recommender.model, Domain("kept", tiny_domain.items.with_columns(title=pl.lit("")), {}))
    assert untitled.recommend(["i0"]) == []
    assert "no item of the domain 'kept' has a title" in caplog.text


def test_equal_scores_keep_the_catalogues_order(late: Recommender) -> None:
    late = Recommender(late.model, pl.DataFrame({"item_id": list("dcba"), "title": ["Hammer", "Saw", "Saw", "Saw"]}))
    assert [r.item_id for r in late.recommend(["title:Saw file"]) if r.title == "Saw"] == ["c", "b", "a"]
    top = late.recommend(["title:Saw file"], k=2)
    assert [r.item_id for r in top] == [r.item_id for r in late.recommend(["title:Saw file"])][:2]


def test_what_shares_a_title_with_what_was_bought_is_left_out(recommender: Recommender) -> None:
    table = pl.DataFrame({"item_id": list("abc"), "title": ["Saw", " Saw", "Drill"]})
    twins = Recommender(recommender.model, table)
    assert [r.item_id for r in twins.recommend(["b"])] == ["c"]
    assert [r.item_id for r in twins.recommend(["title:Saw"])] == ["c"]
    assert {r.item_id for r in twins.recommend(["b"], include_bought=True)} == {"a", "b", "c"}


def test_filters_hold_inside_the_ranking(recommender: Recommender, tmp_path: Path) -> None:
    every = [f"i{n}" for n in range(6)]
    table = pl.DataFrame(
        {
            "item_id": every,
            "title": [f"Saw number {n}" for n in range(6)],
            "category": ["odd" if n % 2 else "even" for n in range(6)],
            "price": [float(n) for n in range(6)],
            "in_stock": [n > 1 for n in range(6)],
        }
    )
    table.write_csv(tmp_path / "shop.csv")
    shop = Recommender(recommender.model, tmp_path / "shop.csv")
    found = shop.recommend(["i0"], filters=Filters(["even"], in_stock=True, price_max=4))
    assert {(r.item_id, r.category, r.price, r.in_stock) for r in found} == {
        ("i2", "even", 2.0, True),
        ("i4", "even", 4.0, True),
    }
    whole = [r.item_id for r in shop.recommend(["i0"]) if r.item_id in ("i2", "i4")]
    assert [r.item_id for r in found] == whole
    assert [r.item_id for r in shop.recommend(["i0"], candidates=["i2", "i3"], filters=Filters(["odd"]))] == ["i3"]


def test_unknown_ids_are_left_out_and_named_where_that_is_wanted(recommender: Recommender) -> None:
    answer = recommender.ask(Question(["B1", "i0", "id:two words"], skip_unknown=True))
    assert answer.unknown == ["B1", "two words"]
    assert answer.recommendations == recommender.recommend(["i0"])
    with pytest.raises(UnknownItemError, match="unknown item id 'B1': the catalogue of 6 items lacks it"):
        recommender.recommend(["B1", "i0"])
    with pytest.raises(DataError, match=r"none of the history's 2 items \('B1' first\)"):
        recommender.recommend(["B1", "B2"], skip_unknown=True)


def test_scores_are_those_of_the_ranking_in_the_given_order(recommender: Recommender) -> None:
    ranked = {r.item_id: r.score for r in recommender.recommend(["i0", "A free title"], include_bought=True)}
    scores = recommender.score(["i0", "A free title"], ["i4", "Red wooden train", "Nobody has this", "i4"])
    assert [score.item_id for score in scores] == ["i4", "i0", None, "i4"]
    assert [scores[n].score for n in (0, 1, 3)] == pytest.approx([ranked["i4"], ranked["i0"], ranked["i4"]], abs=2e-6)
    assert scores[2].title == "Nobody has this"
    with pytest.raises(DataError, match="the items to score is empty"):
        recommender.score(["i0"], [])


def test_one_bad_question_fails_alone(recommender: Recommender) -> None:
    questions = [
        Question(["i0"], 2),
        Question([]),
        Question(["B1"]),
        Question(["i1", "A free title"], 3),
        Question(["i2"], to_score=["i3"]),
        Question(["i2"], to_score=["B2"]),
    ]
    answers = recommender.answer(questions)
    assert [type(answer) for answer in answers] == [
        Answer,
        DataError,
        UnknownItemError,
        Answer,
        Answer,
        UnknownItemError,
    ]
    for number in (0, 3, 4):
        alone = recommender.ask(questions[number])
        together = answers[number]
        assert isinstance(together, Answer)
        assert [known for known, _ in together.found] == [known for known, _ in alone.found]
        assert [s for _, s in together.found] == pytest.approx([s for _, s in alone.found], abs=2e-6)
    assert recommender.answer([]) == []


def test_an_unexpected_failure_is_one_questions_too(
    late: Recommender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = ranking.ids_bought

    def fail(snapshot: Any, known: Any) -> Any:
        if len(known.history) == 2:
            raise ZeroDivisionError("two")
        return original(snapshot, known)

    monkeypatch.setattr(ranking, "ids_bought", fail)
    first, second = late.answer([Question(["i0", "i1"]), Question(["i0"])])
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, Answer)
    assert "a question failed" in caplog.text


def test_many_histories_are_ranked_as_one_by_one(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [["i0", "i3"], ["A train nobody has seen"], ["i1", "A free title", "i1"], ["i5"]]
    alone = [recommender.recommend(history, 3) for history in histories]
    for most in (2**24, 6 * 3):  # all products together, and one or two searches at a time
        monkeypatch.setattr(ranking, "_PRODUCTS_AT_ONCE", most)
        many = [answer.recommendations for answer in recommender.answer([Question(h, 3) for h in histories])]
        assert [[r.item_id for r in found] for found in many] == [[r.item_id for r in found] for found in alone]
        for found, wanted in zip(many, alone, strict=True):
            assert [r.score for r in found] == pytest.approx([r.score for r in wanted], abs=2e-6)
    _, empty = recommender.answer([Question(["i0"]), Question([])])
    assert isinstance(empty, DataError)
    assert "the history is empty" in str(empty)


def test_texts_of_all_questions_are_encoded_together(
    models: dict[str, Any], tiny_domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    encoded: list[list[str]] = []
    late, original = Recommender(models["late"], tiny_domain, on_encoded=told.append), ranking.encode_titles
    monkeypatch.setattr(ranking, "encode_titles", lambda m, texts: encoded.append(texts) or original(m, texts))
    free, other = "A train nobody has seen", "Another free title"
    late.answer([Question(["i0", free]), Question(["i0"], to_score=[other, free]), Question([other])])
    assert encoded == [[free, other]]
    assert told == [2]


def test_a_pair_model_reads_a_limited_number_of_items(pair: Recommender) -> None:
    few = Recommender(pair.model, pair.catalogue, pair_limit=3)
    with pytest.raises(DataError, match="the history with each of 6 items, at most 3 are allowed"):
        few.recommend(["i0"])
    with pytest.raises(DataError, match="each of 6 items"):
        few.check(Question([]))
    with pytest.raises(DataError, match="each of 4 items"):
        few.score(["i0"], [f"A title of number {n}" for n in range(4)])
    assert len(few.recommend(["i0"], candidates=["i1", "i2"])) == 2
    few.check(Question([], candidates=["i1", "i2"]))
    many = pl.DataFrame({"item_id": [f"i{n}" for n in range(2001)], "title": ["Red train"] * 2001})
    with pytest.raises(DataError, match="each of 2001 items, at most 2000"):
        Recommender(pair.model, many).recommend(["i0"])


def test_a_guests_account_and_a_title_of_thousands_cost_what_is_read_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking all of them up held up everybody else's questions."""
    items = [StoredItem(f"i{n}", "Gift card" if n % 2 else f"Item {n}") for n in range(4000)]
    snapshot = Catalogue.in_memory(items, np.empty((4000, 0), np.float32), "").snapshot()
    bought = [f"i{n}" if n % 5 else f"gone{n}" for n in range(3000)]
    get, looked_up = snapshot.get, 0

    def counted(item_ids: Sequence[str]) -> list[StoredItem | None]:
        nonlocal looked_up
        looked_up += len(item_ids)
        return get(item_ids)

    monkeypatch.setattr(type(snapshot), "get", lambda _, item_ids: counted(item_ids))
    history = [*[{"title": "Gift  card"}] * 90, {"item_id": "i2999"}, {"item_id": "i2998"}]
    known = understand(snapshot, Question(history, user_id="guest"), bought=bought)
    newest = [item_id for item_id in bought if item_id[0] == "i" and item_id not in ("i1", "i2999", "i2998")][-50:]
    assert [each.item_id for each in known.history] == [*newest, *["i1"] * 90, "i2999", "i2998"]
    assert looked_up < 600
    (part, _) = snapshot.parts  # type: ignore[attr-defined]
    assert part.segment.item.cache_info().misses < 600


def test_threads_that_share_one_get_the_same_answers(tiny_models: Any, tiny_domain: Domain) -> None:
    """An explanation takes sources out of the model while it lasts."""
    recommender, titles = Recommender(bundle.load(tiny_models.merged), tiny_domain), [f"a {n} train" for n in range(12)]

    def explained(title: str) -> Any:
        return recommender.explain([title], "i3")

    expected = [explained(title) for title in titles]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(explained, titles)) == expected
    assert explained(titles[0]) == expected[0]


def test_an_explanation_is_the_same_each_time(tiny_models: Any, tiny_domain: Domain) -> None:
    """Weights without one source came to lie where those without another had lain, and were taken for them."""
    recommender = Recommender(bundle.load(tiny_models.merged), tiny_domain)
    for number in range(24):
        first, *others = (recommender.explain([f"a {number} train"], "i3") for _ in range(4))
        assert others == [first] * 3
        assert len({source.stream_effect for source in first.sources}) == 2


def test_a_pickled_one_is_opened_again(tiny_models: Any, tiny_domain: Domain) -> None:
    recommender = Recommender.from_pretrained(tiny_models.merged, tiny_domain)
    sent = pickle.loads(pickle.dumps(recommender))
    assert sent.recommend(["Blue train"], k=3) == recommender.recommend(["Blue train"], k=3)


def test_one_of_a_model_in_memory_says_that_it_cannot_be_pickled(late: Recommender) -> None:
    with pytest.raises(ConfigError, match=r"other processes cannot load: make it with Recommender\.from_pretrained"):
        pickle.dumps(late)
