from __future__ import annotations

import pytest
from tests.evaluation.results import result_of

from xcrossrec.evaluation import compare, comparison_table, summary_table, verdict

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


def test_table_of_nobody_unseen_says_so() -> None:
    result = result_of({"uniform": [2, 2]}, seen=[True, True])
    assert "every user was seen in a source" in summary_table(result.summary())


def test_comparison_table_has_a_row_a_metric_and_the_verdict() -> None:
    caption, _, header, _, *rows, _, said = comparison_table(compare(A, B)).splitlines()
    assert caption == "a = ours, b = baseline|popularity; tools validation: 5 users, seed 4"
    assert header.split()[:4] == ["negatives", "metric", "a", "b"]
    assert [row.split()[1] for row in rows] == ["hit@1", "hit@10", "mrr", "ndcg@10"]
    assert "+0.600" in rows[0]
    assert said.startswith("ours ranks better than baseline|popularity: MRR +0.428 (95% interval +0.189")
    assert said.endswith("against uniform negatives.")


def test_comparison_tells_unseen_users_apart_and_names_simulation() -> None:
    a = result_of({"full": [1, 2, 3]}, seen=[True, False, False], simulated=True)
    verdict, unseen, simulated = comparison_table(compare(a, a)).splitlines()[-3:]
    assert verdict.startswith("No clear difference between tfidf and tfidf: MRR +0.000")
    assert unseen.startswith("Only the 2 users unseen in a source: MRR +0.000")
    assert unseen.endswith("against the whole catalogue.")
    assert simulated.startswith("simulated users")


@pytest.mark.parametrize(
    ("ci", "start"),
    [
        ((0.01, 0.03), "x ranks better than y: MRR +0.020 (95% interval +0.010 to +0.030)"),
        ((-0.03, -0.01), "x ranks worse than y"),
        ((-0.01, 0.03), "No clear difference between x and y"),
    ],
)
def test_only_an_interval_clear_of_zero_is_a_verdict(ci: tuple[float, float], start: str) -> None:
    found = {"a": "x", "b": "y", "metrics": {"popularity": {"mrr": {"difference": 0.02, "ci": ci}}}}
    assert verdict(found, "popularity").startswith(start)
