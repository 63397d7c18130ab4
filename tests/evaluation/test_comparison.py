from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tests.evaluation.results import result_of

from xcrossrec.evaluation import Evaluation, compare
from xcrossrec.exceptions import DataError

A = result_of({"uniform": [1, 1, 2, 3, 1], "full": [4, 5, 6, 7, 8]}, scorer="ours")
B = result_of({"full": [4, 5, 6, 7, 8], "uniform": [2, 4, 2, 9, 3]}, scorer="theirs")


def test_comparison_gives_means_difference_interval_and_p() -> None:
    found = compare(A, B)
    assert (found["a"], found["b"], found["users"], found["seed"]) == ("ours", "theirs", 5, 4)
    assert list(found["metrics"]) == ["uniform", "full"]
    mrr = found["metrics"]["uniform"]["mrr"]
    mean_a, mean_b = np.mean([1, 1, 1 / 2, 1 / 3, 1]), np.mean([1 / 2, 1 / 4, 1 / 2, 1 / 9, 1 / 3])
    assert (mrr["mean_a"], mrr["mean_b"]) == pytest.approx((mean_a, mean_b))
    assert mrr["difference"] == pytest.approx(mean_a - mean_b)
    half = 1.96 * np.sqrt(sum((d - 77 / 180) ** 2 for d in (1 / 2, 3 / 4, 0, 2 / 9, 2 / 3)) + 2 * (3 / 4) ** 2) / 5
    assert mrr["ci"] == pytest.approx([77 / 180 - half, 77 / 180 + half])
    assert mrr["p"] == pytest.approx(2 / 2**4, abs=0.02)  # four users differ, all one way
    assert mrr["users"] == 5


def test_comparison_of_equal_results_finds_nothing() -> None:
    full = compare(A, B)["metrics"]["full"]
    assert all(found["difference"] == 0 and found["p"] == 1 for found in full.values())


def test_comparison_turned_round_has_the_other_sign() -> None:
    there, back = compare(A, B)["metrics"]["uniform"], compare(B, A)["metrics"]["uniform"]
    for name in there:
        assert back[name]["difference"] == pytest.approx(-there[name]["difference"])
        assert back[name]["p"] == there[name]["p"]


def test_users_are_aligned_by_id_not_by_place() -> None:
    shuffled = Evaluation(B.frame.sample(fraction=1.0, shuffle=True, seed=2), B.info)
    assert compare(A, shuffled) == compare(A, B)


def test_only_negatives_of_both_are_compared() -> None:
    assert list(compare(A, result_of({"uniform": [1, 2, 3, 4, 5]}))["metrics"]) == ["uniform"]


def test_users_seen_by_either_method_are_left_out_of_the_second_table() -> None:
    a = result_of({"uniform": [1, 1, 2, 3]}, seen=[True, False, False, False])
    b = result_of({"uniform": [2, 2, 2, 2]}, seen=[False, True, False, False])
    found = compare(a, b)
    assert found["metrics"]["uniform"]["mrr"]["users"] == 4
    assert found["without_seen"]["uniform"]["mrr"]["users"] == 2
    assert found["without_seen"]["uniform"]["mrr"]["mean_a"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_second_table_is_absent_where_seen_users_are_unknown_or_all() -> None:
    assert "without_seen" not in compare(A, B)
    all_seen = result_of({"uniform": [1, 2]}, seen=[True, True])
    assert "without_seen" not in compare(all_seen, all_seen)


def test_users_that_one_method_marks_and_the_other_does_not_know_count() -> None:
    source = result_of({"uniform": [1, 2, 3]}, seen=[True, False, False])
    popularity = result_of({"uniform": [2, 2, 2]})
    assert compare(source, popularity)["without_seen"]["uniform"]["mrr"]["users"] == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"domain": "toys"}, "another domain cannot be compared, got 'tools' and 'toys'"),
        ({"fingerprint": "cd"}, "another fingerprint cannot be compared, got 'abab.*' and 'cd'"),
        ({"split": "test"}, "another split cannot be compared, got 'validation' and 'test'"),
        ({"seed": 5}, "another seed cannot be compared, got 4 and 5"),
    ],
)
def test_results_of_something_else_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        compare(A, result_of({"uniform": [1, 1, 2, 3, 1]}, **change))


def test_results_of_other_users_are_refused() -> None:
    match = r"got 5 and 7 users, only in the first: none, only in the second: u5, u6"
    with pytest.raises(DataError, match=match):
        compare(A, result_of({"uniform": [1] * 7}))


def test_results_of_many_other_users_name_some() -> None:
    with pytest.raises(DataError, match=r"only in the second: u5, u6, u7, \.\.\."):
        compare(A, result_of({"uniform": [1] * 9}))


def test_results_without_common_negatives_are_refused() -> None:
    with pytest.raises(DataError, match="no negatives in common, got uniform, full and popularity"):
        compare(A, result_of({"popularity": [1] * 5}))


def test_results_of_another_number_of_candidates_are_refused() -> None:
    odd = Evaluation(B.frame.with_columns(candidates=pl.lit(100)), B.info)
    odd = Evaluation(odd.frame.cast({"candidates": pl.Int64}), B.info)
    with pytest.raises(DataError, match="another number of candidates, got 30 and 100 for user 'u0'"):
        compare(A, odd)
