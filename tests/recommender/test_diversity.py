"""At most so many near-equal titles, whatever is ranked."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcrossrec.exceptions import ConfigError
from xcrossrec.recommender import Question
from xcrossrec.recommender.diversity import Ranked, diverse
from xcrossrec.recommender.questions import Known

quick = settings(deadline=None, derandomize=True)
titles_of = st.lists(st.lists(st.sampled_from("abcde5"), max_size=6).map(" ".join), max_size=25)


def ranking_of(titles: Sequence[str]) -> Ranked:
    return [(Known(None, title), -float(place)) for place, title in enumerate(titles)]


def found_of(titles: Sequence[str], k: int, most: int | None) -> list[str]:
    return [known.title for known, _ in diverse(lambda n: ranking_of(titles)[:n], k, most)]


def near_equal(first: str, second: str) -> bool:
    """By the definition: three quarters of the words of both, letters alone; else the whole text."""
    one, other = (set(re.findall("[a-z]+", text)) or set(text.split()) for text in (first, second))
    return bool(one & other) and len(one & other) / len(one | other) >= 0.75


def by_loop(titles: Sequence[str], k: int, most: int) -> list[str]:
    taken: list[str] = []
    for title in titles:
        if len(taken) < k and sum(near_equal(title, other) for other in taken) < most:
            taken.append(title)
    return taken


@quick
@given(titles_of, st.integers(1, 8), st.integers(1, 3))
def test_the_best_are_those_of_the_loop_reference(titles: list[str], k: int, most: int) -> None:
    assert found_of(titles, k, most) == by_loop(titles, k, most)


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("Konad Stamping Nail Art Image Plate - M59", "Konad Stamping Nail Art Image Plate M71", True),
        ("Silicon Mix Hair Treatment 8oz", "SILICON MIX hair treatment 16oz", True),
        ("Green Toys Tool Set, Pink", "Green Toys Tool Set", True),
        ("Suave Shine Conditioner 28 oz", "Suave Shine Shampoo 28 oz", False),
        ("Thomas Wooden Railway - Salty", "Thomas Wooden Railway Jack", False),
        ("75003", "75004", False),
        ("75003", "75003", True),
        ("", "", False),
        ("Éclair Crème Çédille", "éclair crème çédille 2", True),
        ("Thé vert bio en sachets", "The\u0301 vert bio en sachets 100", True),
        ("不锈钢浇水壶5升红色大容量", "不锈钢浇水壶8升蓝色大容量", True),
        ("不锈钢浇水壶", "无线降噪耳机", False),
        ("ﾜｲﾔﾚｽ ｲﾔﾎﾝ 黒", "ワイヤレス イヤホン 白", False),
        ("ﾜｲﾔﾚｽ ｲﾔﾎﾝ 2", "ワイヤレス イヤホン", True),
        ("บัวรดน้ำสแตนเลส 5 ลิตร", "บัวรดน้ำสแตนเลส 10 ลิตร", True),
        ("บัวรดน้ำสแตนเลส", "หูฟังไร้สายตัดเสียงรบกวน", False),
        ("स्टेनलेस स्टील का डिब्बा 5", "स्टेनलेस स्टील का डिब्बा 8", True),
        ("गमला लाल", "कैंची हरी", False),
    ],
)
def test_real_titles_are_near_equal_or_not(first: str, second: str, alike: bool) -> None:
    assert len(found_of([first, second], 2, 1)) == (1 if alike else 2)


def test_no_limit_ranks_no_more_than_is_asked() -> None:
    asked: list[int] = []

    def ranked(count: int) -> Ranked:
        asked.append(count)
        return ranking_of(["plate"] * 100)[:count]

    assert len(diverse(ranked, 3, None)) == 3
    assert asked == [3]
    assert len(diverse(ranked, 3, 2)) == 2
    assert max(asked) >= 100, "all there are were looked at before too few come back"


def test_what_lies_far_behind_is_found() -> None:
    titles = [f"plate {n}" for n in range(500)] + ["brush", "lash"]
    assert found_of(titles, 3, 1) == ["plate 0", "brush", "lash"]


def test_a_catalogue_of_one_title_is_not_ranked_to_its_end() -> None:
    titles, asked = [f"Nail plate M{n}" for n in range(30_000)], list[int]()

    def ranked(count: int) -> Ranked:
        asked.append(count)
        return ranking_of(titles[:count])

    assert len(diverse(ranked, 10, 1)) == 1
    assert max(asked) == 10_000
    assert len(diverse(ranked, 4000, 1)) == 1
    assert max(asked) == 16_000  # as many as must be ranked for so many


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="diversity is 0: allow at least 1 item of near-equal titles"):
        Question(["i0"], diversity=0)
