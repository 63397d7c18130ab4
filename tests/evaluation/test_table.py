from __future__ import annotations

from typing import Any

import pytest
from tests.evaluation.results import result_of

from xcrossrec.evaluation import compare, comparison_table, summary_table, verdict
from xcrossrec.evaluation.table import headline

A = result_of({"uniform": [1, 1, 2, 3, 1], "full": [4, 5, 6, 7, 8]}, scorer="ours")
B = result_of({"uniform": [2, 4, 2, 9, 3]}, scorer="baseline|popularity")


def test_text_table_has_a_row_a_kind_in_aligned_columns() -> None:
    caption, _, header, rule, *rows = summary_table(A.summary()).splitlines()
    assert caption == "tools validation: 5 users, seed 4; mean [95% interval]"
    assert header.split() == ["negatives", "scorer", "hit@1", "hit@10", "mrr", "ndcg@10"]
    assert [row.split()[:3] for row in rows] == [["uniform", "ours", "0.600"], ["full", "ours", "0.000"]]
    assert len({len(line) for line in [header, rule, *rows]}) == 1


def test_notes_name_warnings_unseen_users_and_simulation() -> None:
    result = result_of({"uniform": [1, 1, 1, 1]}, seen=[True, False, False, True], simulated=True)
    notes = summary_table(result.summary()).splitlines()[-3:]
    assert notes[0].startswith("possible leak: hit@1 is 1.000")
    assert notes[1] == "only the 2 users unseen in a source: uniform mrr 1.000"
    assert notes[2].startswith("simulated users")


LISTS = {"coverage@10": 0.25, "gini@10": 0.9, "novelty@10": 3.0, "popularity@10": 4.25, "popularity_bought": 6.5}


def test_lists_of_one_method_and_of_two_are_told() -> None:
    one = result_of({"full": [2, 3]}, scorer="one", lists=LISTS)
    assert summary_table(one.summary()).splitlines()[-1] == (
        "the best 10 of the catalogue: coverage 0.250, Gini 0.900, novelty 3.00 bits, an item bought 4.2 times in "
        "train, what was bought next 6.5 times"
    )
    two = result_of({"full": [2, 3]}, scorer="two", lists={**LISTS, "coverage@10": 0.5, "novelty@10": 2.0})
    found = compare(one, two)
    assert found["lists"]["coverage@10"] == {"a": 0.25, "b": 0.5}
    assert comparison_table(found).splitlines()[-1] == (
        "the best 10 of the catalogue: coverage 0.250 and 0.500, Gini 0.900, novelty 3.00 and 2.00 bits, an item "
        "bought 4.2 times in train, what was bought next 6.5 times"
    )
    assert "lists" not in compare(one, result_of({"full": [2, 3]}))


def test_table_of_nobody_unseen_says_so() -> None:
    result = result_of({"uniform": [2, 2]}, seen=[True, True])
    assert "every user was seen in a source" in summary_table(result.summary())


def test_a_comparison_begins_with_its_verdict_and_has_a_row_a_kind() -> None:
    said, _, header, _, row, _, where = comparison_table(compare(A, B)).splitlines()
    assert said.startswith("ours cannot be told apart from baseline|popularity: MRR +0.428 (+126.2%), 95% interval -0.")
    assert said.endswith("against uniform negatives.")
    assert header.split("  ")[0] == "negatives"
    assert "MRR of ours  MRR of baseline|popularity  difference" in header
    assert row.split()[:4] == ["uniform", "0.7667", "0.3389", "+0.4278"]
    assert where == "tools validation: 5 users, seed 4; --json has hit@1, hit@10, ndcg@10, too"


def test_a_comparison_tells_unseen_users_apart_and_names_simulation() -> None:
    a = result_of({"full": [1, 2, 3]}, seen=[True, False, False], simulated=True)
    said, *_, unseen, simulated = comparison_table(compare(a, a)).splitlines()
    assert said.startswith("tfidf (first) cannot be told apart from tfidf (second): MRR +0.000 (+0.0%)")
    assert unseen.startswith("Only the 2 users unseen in a source: MRR +0.000")
    assert unseen.endswith("against the whole catalogue.")
    assert simulated.startswith("simulated users")


def found_in(**intervals: tuple[float, float]) -> dict[str, Any]:
    metrics = {k: {"mrr": {"difference": sum(ci) / 2, "mean_b": 0.25, "ci": ci}} for k, ci in intervals.items()}
    return {"a": "x", "b": "y", "metrics": metrics}


@pytest.mark.parametrize(
    ("ci", "start"),
    [
        ((0.01, 0.03), "x ranks better than y: MRR +0.020 (+8.0%), 95% interval +0.010 to +0.030, against popularity"),
        ((-0.03, -0.01), "x ranks worse than y"),
        ((-0.01, 0.03), "x cannot be told apart from y"),
    ],
)
def test_only_an_interval_clear_of_zero_is_a_verdict(ci: tuple[float, float], start: str) -> None:
    assert verdict(found_in(popularity=ci), "popularity").startswith(start)


@pytest.mark.parametrize(
    ("intervals", "rest"),
    [
        (
            {"uniform": (0.01, 0.03), "popularity": (0.01, 0.02), "full": (0.01, 0.02)},
            "Against uniform negatives and against the whole catalogue it ranks better, too.",
        ),
        (
            {"uniform": (0.01, 0.03), "popularity": (-0.01, 0.02), "full": (-0.01, 0.02)},
            "Against the whole catalogue they cannot be told apart, either. Against uniform negatives x ranks better.",
        ),
        (
            {"uniform": (-0.03, -0.01), "popularity": (0.01, 0.02), "full": (-0.01, 0.02)},
            "Against the whole catalogue they cannot be told apart. Against uniform negatives x ranks worse.",
        ),
    ],
)
def test_all_kinds_of_negatives_are_in_the_first_line(intervals: dict[str, Any], rest: str) -> None:
    found = found_in(**intervals)
    assert headline(found) == f"{verdict(found, 'popularity')} {rest}"
