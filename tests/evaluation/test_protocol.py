from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.contracts.scorer import interactions

from xcrossrec.baselines.rivals import Popularity
from xcrossrec.data.candidates import candidates_file, draw_candidates
from xcrossrec.data.domain import Domain
from xcrossrec.evaluation import Evaluation, evaluate, without_field
from xcrossrec.exceptions import ConfigError, DataError, ModelError
from xcrossrec.metrics.lists import list_metrics
from xcrossrec.progress import Stage

N_ITEMS = 45


class Hashed:
    """Scores that look random, depend on history and item, and tie now and then."""

    name = "hashed"

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []

    def score(self, histories, candidates=None):  # type: ignore[no-untyped-def]
        self.calls.append((len(histories), candidates is None))
        sums = np.array([sum(history) for history in histories])[:, None]
        items = np.arange(N_ITEMS)[None, :] if candidates is None else candidates
        return ((sums * 31 + items * 17) % 23).astype(np.float32)


class Answers(Hashed):
    """Returns whatever it was given."""

    def __init__(self, answer: np.ndarray) -> None:
        super().__init__()
        self.answer = answer

    def score(self, histories, candidates=None):  # type: ignore[no-untyped-def]
        return self.answer


def _domain(**manifest: object) -> Domain:
    rng = np.random.default_rng(0)
    items = pl.DataFrame(
        {"item_id": [f"i{row}" for row in range(N_ITEMS)], "title": [f"tool {row}" for row in range(N_ITEMS)]}
    )
    every = {f"t{n}": tuple(rng.permutation(N_ITEMS)[:7].tolist()) for n in range(30)}
    some = {f"v{n}": tuple(rng.permutation(N_ITEMS)[: 2 + n % 4].tolist()) for n in range(11)}
    some["v11"] = (4, 5, 4)  # the target occurs in the history
    some["v12"] = (4,)  # no history: left out
    return Domain("tools", items, {"train": interactions(every), "validation": interactions(some)}, manifest)


def _rank(scorer: Hashed, history: tuple[int, ...], candidates: list[int]) -> int:
    """Slow reference: one user, one item at a time; the first candidate is the positive."""
    scores = [float(scorer.score([history], np.array([[row]]))[0, 0]) for row in candidates]
    return 1 + sum(score >= scores[0] for score in scores[1:])


def test_every_kind_equals_the_loop_reference() -> None:
    domain, scorer = _domain(), Hashed()
    result = evaluate(scorer, domain, "validation", seed=3)
    sequences = domain.sequences("validation")
    for kind in ("uniform", "popularity"):
        drawn = draw_candidates(domain, "validation", kind, seed=3)
        expected = [_rank(scorer, rows[:-1], list(drawn.rows[user])) for user, rows in enumerate(sequences.rows)]
        assert result.of(kind)["rank"].to_list() == expected
        assert set(result.of(kind)["candidates"]) == {30}
    others = [[row for row in range(N_ITEMS) if row not in rows] for rows in sequences.rows]
    expected = [_rank(scorer, rows[:-1], [rows[-1], *rest]) for rows, rest in zip(sequences.rows, others, strict=True)]
    assert result.of("full")["rank"].to_list() == expected
    assert result.of("full")["candidates"].to_list() == [1 + len(rest) for rest in others]


@pytest.mark.parametrize("kept", [{}, {"filters": {"repeats": "keep"}}])
def test_lists_are_those_of_the_whole_catalogue(kept: dict[str, object]) -> None:
    domain, scorer = _domain(**kept), Hashed()
    sequences, lists = domain.sequences("validation"), []
    for rows in sequences.rows:
        scores = scorer.score([rows[:-1]])[0]
        left = [row for row in range(N_ITEMS) if kept or row not in rows or row == rows[-1]]
        lists.append(sorted(left, key=lambda row: (-scores[row], row))[:10])
    targets = np.array([rows[-1] for rows in sequences.rows])
    expected = list_metrics(np.array(lists), N_ITEMS, domain.train_counts(), targets)
    for batch in (5, 256):
        assert evaluate(scorer, domain, "validation", batch_users=batch).info.lists == expected


def test_there_are_no_lists_without_the_whole_catalogue_and_no_novelty_without_train() -> None:
    assert evaluate(Hashed(), _domain(), "validation", negatives=["uniform"]).info.lists is None
    validation = Domain("tools", _domain().items, {"validation": _domain().interactions["validation"]})
    lists = evaluate(Hashed(), validation, "validation", negatives=["full"]).info.lists
    assert lists is not None
    assert list(lists) == ["coverage@10", "gini@10"]


def test_the_share_of_train_that_came_after_half_of_the_targets_is_told() -> None:
    domain = _domain()
    assert evaluate(Hashed(), domain, "validation").info.train_after is None
    timed = {s: frame.with_columns(timestamp=pl.col("position") * 10) for s, frame in domain.interactions.items()}
    last = timed["validation"].filter(pl.len().over("user_id") > 1).group_by("user_id").agg(pl.col("timestamp").max())
    after = (timed["train"]["timestamp"] > last["timestamp"].median()).mean()
    assert 0 < after < 1
    assert evaluate(Hashed(), Domain("tools", domain.items, timed), "validation").info.train_after == after
    assert (
        evaluate(Hashed(), Domain("tools", domain.items, timed), "train", negatives=["full"]).info.train_after is None
    )


def test_results_have_one_row_a_user_and_kind() -> None:
    result = evaluate(Hashed(), _domain(), "validation")
    assert result.frame.height == 3 * 12
    assert result.negatives == ("uniform", "popularity", "full")
    assert "v12" not in result.frame["user_id"].to_list()
    assert result.frame["seen_in_source"].null_count() == result.frame.height


@pytest.mark.parametrize("batch_users", [1, 5, 12, 100])
def test_batch_size_changes_nothing(batch_users: int) -> None:
    expected = evaluate(Hashed(), _domain(), "validation").frame
    assert evaluate(Hashed(), _domain(), "validation", batch_users=batch_users).frame.equals(expected)


def test_sampled_kinds_alone_rank_as_they_do_beside_full() -> None:
    beside = evaluate(Hashed(), _domain(), "validation")
    alone = evaluate(Hashed(), _domain(), "validation", negatives=("popularity", "uniform"))
    for kind in ("uniform", "popularity"):
        assert alone.of(kind).equals(beside.of(kind))


def test_each_batch_is_scored_once() -> None:
    scorer = Hashed()
    evaluate(scorer, _domain(), "validation", batch_users=8)
    assert scorer.calls == [(8, True), (4, True)]
    scorer = Hashed()
    evaluate(scorer, _domain(), "validation", batch_users=8, negatives=("uniform", "popularity"))
    assert scorer.calls == [(8, False), (4, False)]


def test_progress_is_told_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(Stage, "at", lambda stage, done, total: told.append((stage.what, done, total)))
    evaluate(Hashed(), _domain(), "validation", batch_users=5)
    assert [(done, total) for what, done, total in told if what == "ranking by hashed"] == [(5, 12), (10, 12), (12, 12)]


def test_seen_users_are_marked() -> None:
    result = evaluate(Hashed(), _domain(), "validation", seen_users={"v1", "v3", "elsewhere"})
    for kind in result.negatives:
        seen = result.of(kind).filter(pl.col("seen_in_source"))["user_id"].to_list()
        assert seen == ["v1", "v3"]
    assert result.frame["seen_in_source"].null_count() == 0


def test_information_names_what_was_measured() -> None:
    domain = _domain(simulated=True)
    info = evaluate(Hashed(), domain, "validation", seed=9).info
    assert (info.scorer, info.domain, info.split, info.seed) == ("hashed", "tools", "validation", 9)
    assert info.fingerprint == domain.fingerprint
    assert info.simulated
    assert info.wall_s > 0


def test_candidates_are_kept_and_shared(tmp_path: Path) -> None:
    first = evaluate(Hashed(), _domain(), "validation", directory=tmp_path)
    file = candidates_file(tmp_path, "validation", "uniform", seed=0)
    written = file.read_bytes()
    second = evaluate(Hashed(), _domain(), "validation", directory=tmp_path)
    assert second.frame.equals(first.frame)
    assert file.read_bytes() == written
    assert evaluate(Hashed(), _domain(), "validation").frame.equals(first.frame)


@pytest.mark.parametrize("negatives", [(), ("uniform", "uniform"), ("hard",)])
def test_odd_negatives_are_refused(negatives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"negatives must be one or more of uniform, popularity, full"):
        evaluate(Hashed(), _domain(), "validation", negatives=negatives)  # type: ignore[arg-type]


def test_absent_split_is_refused() -> None:
    with pytest.raises(DataError, match="no 'test' split, only train, validation"):
        evaluate(Hashed(), _domain(), "test")


def test_split_without_histories_is_refused() -> None:
    domain = Domain("tools", _domain().items, {"validation": interactions({"v": (1,)})})
    with pytest.raises(DataError, match="0 users with a history and a target in split 'validation'"):
        evaluate(Hashed(), domain, "validation", negatives=("full",))


def test_scores_of_another_shape_are_refused() -> None:
    scorer = Answers(np.zeros((12, 7), dtype=np.float32))
    with pytest.raises(ModelError, match=r"shape \(12, 7\), expected \(12, 45\): it must be bound"):
        evaluate(scorer, _domain(), "validation")


def test_scores_that_are_not_finite_are_refused() -> None:
    answer = np.zeros((12, N_ITEMS), dtype=np.float32)
    answer[2, 3:5] = np.nan
    with pytest.raises(ModelError, match="'hashed' returned 2 scores that are not finite"):
        evaluate(Answers(answer), _domain(), "validation")


def test_constant_scores_rank_last() -> None:
    result = evaluate(Answers(np.ones((12, N_ITEMS), dtype=np.float32)), _domain(), "validation")
    assert (result.frame["rank"] == result.frame["candidates"]).all()


def test_popularity_loses_to_popular_negatives() -> None:
    """A count that the protocol's floors rest on: drawn by popularity, negatives are popular."""
    domain = _domain()
    result = evaluate(Popularity(domain.train_counts()), domain, "validation")
    assert isinstance(result, Evaluation)
    assert result.of("popularity")["mrr"].mean() <= result.of("uniform")["mrr"].mean()  # type: ignore[operator]


def _with_a_whale() -> Domain:
    domain = _domain()
    whale = {"whale": tuple(range(N_ITEMS - 10))}
    validation = pl.concat([interactions(whale), domain.interactions["validation"]])
    return Domain("tools", domain.items, {**domain.interactions, "validation": validation})


@pytest.mark.parametrize("kept", [False, True])
def test_who_bought_nearly_everything_is_left_out_of_drawn_lists(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    domain, plain = _with_a_whale(), _domain()
    (tmp_path / "d").mkdir()
    with caplog.at_level("INFO", "xcrossrec"):
        for directory in (tmp_path / "d" if kept else None,) * 2:
            result = evaluate(Hashed(), domain, "validation", seed=3, directory=directory)
    for kind in ("uniform", "popularity"):
        alone = evaluate(Hashed(), plain, "validation", negatives=[kind], seed=3)
        assert result.of(kind).equals(alone.of(kind))
    assert result.of("full")["user_id"].to_list()[0] == "whale"
    assert "tools, validation: 1 of 13 users are left out of uniform negatives" in caplog.text


def test_who_had_bought_the_target_before_is_left_out_and_told() -> None:
    drop = {"filters": {"repeats": "drop"}}
    plain, items = _domain(**drop), _domain().items
    again = interactions({"v90": (4, 5, 4), "v91": (7, 7)})
    more = {**plain.interactions, "validation": pl.concat([plain.interactions["validation"], again])}
    domain = Domain("tools", items, more, drop)
    found, before = (evaluate(Hashed(), each, "validation", seed=3) for each in (domain, plain))
    assert found.frame.equals(before.frame)
    assert before.warnings()[0].startswith("1 users are left out, whose last purchase repeats")
    assert [each.startswith("3 users are left out, whose last purchase repeats") for each in found.warnings()] == [True]
    for manifest in ({}, {"filters": {"repeats": "keep"}}):  # ready splits, whose users are those of what was published
        kept = evaluate(Hashed(), Domain("tools", items, more, manifest), "validation")
        assert {"v90", "v91"} <= {*kept.frame["user_id"]}
        assert not kept.warnings()
    nobody = Domain("tools", items, {**plain.interactions, "validation": again}, drop)
    with pytest.raises(
        DataError, match=r"0 users with a history .*2 items \(2 users are left out, .*--repeats keep ranks"
    ):
        evaluate(Hashed(), nobody, "validation")


@pytest.mark.parametrize("lines", [2, 1])
def test_targets_of_one_order_with_their_history_are_told(lines: int) -> None:
    """Lines of one order stand at one time, in the order of the file."""
    domain = _domain()
    timed = {s: frame.with_columns(timestamp=pl.col("position") // lines) for s, frame in domain.interactions.items()}
    found = evaluate(Hashed(), Domain("tools", domain.items, timed), "validation")
    lengths = timed["validation"].group_by("user_id").len().filter(pl.col("len") > 1)["len"]
    even = lengths.is_in([2, 4, 6]).sum()
    assert 0 < even < lengths.len() == 12
    told = [each for each in found.warnings() if "completing an order, not the next purchase" in each]
    assert [each.partition(" have the same time")[0] for each in told] == [f"{even} of 12 targets"] * (lines - 1)


def test_where_orders_are_kept_whole_histories_end_before_the_targets_order() -> None:
    domain = _domain()
    timed = {s: frame.with_columns(timestamp=pl.col("position") // 2) for s, frame in domain.interactions.items()}
    whole = Domain("tools", domain.items, timed, {"filters": {"orders": "whole"}})
    found, scorer = evaluate(Hashed(), whole, "validation"), Hashed()
    assert not any("order" in each for each in found.warnings())
    sequences = whole.sequences("validation")
    rows = dict(zip(sequences.user_ids, sequences.rows, strict=True))
    assert {len(each) for each in rows.values()} == {3, 4, 5}  # an order of two, and part or all of the next
    for user, rank in found.of("full").select("user_id", "rank").iter_rows():
        own = rows[user]
        others = [row for row in range(N_ITEMS) if row not in own]
        before = own[: (len(own) - 1) // 2 * 2]
        assert rank == _rank(scorer, before, [own[-1], *others])
    first = evaluate(Hashed(), whole, "validation", negatives=["full"], first=True)
    assert first.of("full")["user_id"].to_list() == list(domain.sequences("validation").user_ids)


def test_an_empty_field_changes_nothing_else_of_the_evaluation() -> None:
    """The paired difference would otherwise be that of two protocols."""
    kept = _domain(filters={"repeats": "keep"})
    empty = without_field(kept, "title")
    assert empty.keeps_repeats
    assert empty.fingerprint != kept.fingerprint
    assert empty.sequences("validation").rows == kept.sequences("validation").rows


def test_where_repeats_are_kept_what_was_bought_stays_a_candidate() -> None:
    plain, kept = _domain(), _domain(filters={"repeats": "keep"})
    result = evaluate(Hashed(), kept, "validation")
    assert set(result.of("full")["candidates"]) == {N_ITEMS}
    assert max(evaluate(Hashed(), plain, "validation").of("full")["candidates"]) < N_ITEMS
    sequences = kept.sequences("validation")
    again = 0
    for seed in range(9):
        drawn = draw_candidates(kept, "validation", "uniform", seed=seed)
        for rows, own in zip(drawn.rows.tolist(), sequences.rows, strict=True):
            assert own[-1] not in rows[1:]
            again += bool(set(own[:-1]) & set(rows[1:]))
    assert again > 0
