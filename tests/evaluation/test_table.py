from __future__ import annotations

import pytest
from tests.evaluation.results import result_of

from xcrossrec.evaluation import compare, comparison_table, summary_table
from xcrossrec.exceptions import ConfigError, DataError

A = result_of({"uniform": [1, 1, 2, 3, 1], "full": [4, 5, 6, 7, 8]}, scorer="ours")
B = result_of({"uniform": [2, 4, 2, 9, 3]}, scorer="baseline|popularity")


def test_text_table_has_a_row_a_kind_and_scorer_in_aligned_columns() -> None:
    caption, _, header, rule, *rows = summary_table([A.summary(), B.summary()]).splitlines()
    assert caption == "tools validation: 5 users, seed 4; mean [95% interval]"
    assert header.split() == ["negatives", "scorer", "hit@1", "hit@10", "mrr", "ndcg@10"]
    assert [row.split()[:3] for row in rows] == [
        ["uniform", "ours", "0.600"],
        ["uniform", "baseline|popularity", "0.000"],
        ["full", "ours", "0.000"],
    ]
    assert len({len(line) for line in [header, rule, *rows]}) == 1


def test_markdown_table_escapes_bars_and_aligns_numbers_right() -> None:
    lines = summary_table([B.summary()], style="markdown").splitlines()[2:]
    assert lines[0].startswith("| negatives | scorer")
    assert lines[1].endswith(":|") or lines[1].endswith(": |")
    assert r"baseline\|popularity" in lines[2]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_notes_name_warnings_unseen_users_and_simulation() -> None:
    result = result_of({"uniform": [1, 1, 1, 1]}, seen=[True, False, False, True], simulated=True)
    notes = summary_table([result.summary()]).splitlines()[-3:]
    assert notes[0].startswith("tfidf: possible leak: hit@1 is 1.000")
    assert notes[1] == "tfidf, only the 2 users unseen in a source: uniform mrr 1.000"
    assert notes[2].startswith("simulated users")


def test_table_of_nobody_unseen_says_so() -> None:
    result = result_of({"uniform": [2, 2]}, seen=[True, True])
    assert "tfidf: every user was seen in a source" in summary_table([result.summary()])


def test_comparison_table_has_a_row_a_metric() -> None:
    caption, _, header, _, *rows = comparison_table(compare(A, B)).splitlines()
    assert caption == "a = ours, b = baseline|popularity; tools validation: 5 users, seed 4"
    assert header.split()[:4] == ["negatives", "metric", "a", "b"]
    assert [row.split()[1] for row in rows] == ["hit@1", "hit@10", "mrr", "ndcg@10"]
    assert "+0.600" in rows[0]


def test_comparison_table_shows_unseen_users_and_simulation() -> None:
    a = result_of({"uniform": [1, 2, 3]}, seen=[True, False, False], simulated=True)
    text = comparison_table(compare(a, a), style="markdown")
    assert "| uniform (unseen users) | mrr" in text
    assert text.splitlines()[-1].startswith("simulated users")


def test_table_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="at least 1 summary, got 0"):
        summary_table([])


def test_table_of_two_domains_is_refused() -> None:
    other = result_of({"uniform": [1] * 5}, domain="toys")
    with pytest.raises(DataError, match=r"one table shows one domain, got \['tools', 'toys'\]"):
        summary_table([A.summary(), other.summary()])


def test_unknown_style_is_refused() -> None:
    with pytest.raises(ConfigError, match="text or markdown, got 'html'"):
        summary_table([A.summary()], style="html")  # type: ignore[arg-type]
