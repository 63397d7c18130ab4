from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.evaluation.results import result_of

from xcrossrec.evaluation import Evaluation
from xcrossrec.exceptions import DataError
from xcrossrec.metrics.significance import mean_interval

RANKS = {"uniform": [1, 2, 4, 20], "popularity": [3, 3, 9, 30], "full": [11, 1, 500, 40]}


def test_saved_results_load_as_they_were(tmp_path: Path) -> None:
    result = result_of(RANKS, seen=[True, False, False, True], lists={"coverage@10": 0.25})
    result.save(tmp_path / "r.parquet")
    loaded = Evaluation.load(tmp_path / "r.parquet")
    assert loaded.frame.equals(result.frame)
    assert loaded.info == result.info
    assert loaded.summary() == result.summary()
    assert loaded.summary()["lists"] == {"coverage@10": 0.25}


def test_saving_leaves_one_file_and_replaces_the_old(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    result_of({"full": [1]}).save(file)
    result_of(RANKS).save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]
    assert Evaluation.load(file).frame.height == 12


def test_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "r.parquet"
    result_of({"full": [1]}).save(file)
    before = file.read_bytes()

    def interrupted(self: pl.DataFrame, path: Path, **_: object) -> None:
        path.write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.DataFrame, "write_parquet", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result_of(RANKS).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_saving_makes_the_folder(tmp_path: Path) -> None:
    result_of(RANKS).save(tmp_path / "absent" / "r.parquet")
    assert Evaluation.load(tmp_path / "absent" / "r.parquet").frame.height == 12


def test_results_of_before_there_were_lists_load(tmp_path: Path) -> None:
    whole = result_of(RANKS)
    stated = {"format": 1, **{name: value for name, value in vars(whole.info).items() if name != "lists"}}
    whole.frame.write_parquet(tmp_path / "r.parquet", metadata={"xcrossrec": json.dumps(stated)})
    loaded = Evaluation.load(tmp_path / "r.parquet")
    assert loaded.info == whole.info
    assert "lists" not in loaded.summary()


def test_missing_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no results file at .*r\.parquet: make one with"):
        Evaluation.load(tmp_path / "r.parquet")


def test_results_that_were_edited_are_refused_by_name(tmp_path: Path) -> None:
    """As another program does it that keeps the metadata; each field, and what is stated of them all."""
    file, whole = tmp_path / "r.parquet", result_of(RANKS, seen=[True, False, False, True])
    whole.save(file)
    metadata = pl.read_parquet_metadata(file)
    stated = {name: metadata[name] for name in ("xcrossrec", "xcrossrec_sha256")}
    other = {**stated, "xcrossrec": stated["xcrossrec"].replace('"seed": 4', '"seed": 5')}
    better = whole.frame.with_columns(pl.when(pl.col("rank") == 500).then(1.0).otherwise(pl.col("mrr")).alias("mrr"))
    seen = whole.frame.with_columns(~pl.col("seen_in_source"))
    for frame, said in ((better, stated), (seen, stated), (whole.frame.head(9), stated), (whole.frame, other)):
        frame.write_parquet(file, metadata=said)
        with pytest.raises(DataError, match=r"r\.parquet is not as it was written: .* evaluate again"):
            Evaluation.load(file)
    whole.frame.write_parquet(file, metadata=stated, compression="snappy")
    assert Evaluation.load(file).frame.equals(whole.frame), "how a file is packed is not its content"


def test_a_flipped_bit_changes_no_verdict(tmp_path: Path) -> None:
    """Parquet has no checksum of its own here. Where Polars can go wrong on the structure itself, none is flipped."""
    file, whole = tmp_path / "r.parquet", result_of(RANKS)
    whole.save(file)
    raw = file.read_bytes()
    metadata = raw.index(b'{"format": 1')
    for place in range(metadata, metadata + 200):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(DataError):
            Evaluation.load(file)


@pytest.mark.parametrize("keep", [0, 4, 300])
def test_truncated_results_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "r.parquet"
    result_of(RANKS).save(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"r\.parquet is not a readable Parquet file"):
        Evaluation.load(file)


def test_foreign_parquet_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "r.parquet")
    with pytest.raises(DataError, match="not a results file, it lacks the 'xcrossrec' metadata"):
        Evaluation.load(tmp_path / "r.parquet")


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ("{", "damaged 'xcrossrec' metadata"),
        ("[]", "damaged 'xcrossrec' metadata"),
        ('{"seed": 1}', "damaged 'xcrossrec' metadata"),
        ('{"format": 99}', "results format 99, this version reads 1"),
        ('{"format": 1, "seed": 1, "odd": 2}', "damaged 'xcrossrec' metadata"),
    ],
)
def test_odd_metadata_are_refused(tmp_path: Path, metadata: str, match: str) -> None:
    result_of(RANKS).frame.write_parquet(tmp_path / "r.parquet", metadata={"xcrossrec": metadata})
    with pytest.raises(DataError, match=match):
        Evaluation.load(tmp_path / "r.parquet")


def test_missing_column_is_refused(tmp_path: Path) -> None:
    whole = result_of(RANKS)
    Evaluation(whole.frame.drop("rank"), whole.info).save(tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"holds the columns user_id, negatives, candidates, hit@1.*expected"):
        Evaluation.load(tmp_path / "r.parquet")


def test_kind_that_was_not_measured_is_refused() -> None:
    with pytest.raises(DataError, match="'tfidf' hold no 'full' negatives, only uniform"):
        result_of({"uniform": [1, 2]}).of("full")


def test_summary_has_the_form_of_the_command_line() -> None:
    summary = json.loads(json.dumps(result_of(RANKS).summary()))
    assert summary["users"] == 4
    assert summary["seed"] == 4
    assert list(summary["metrics"]) == ["uniform", "popularity", "full"]
    for metrics in summary["metrics"].values():
        assert list(metrics) == ["hit@1", "hit@10", "mrr", "ndcg@10", "ci"]
        assert all(low <= metrics[name] <= high for name, (low, high) in metrics["ci"].items())
    assert (summary["scorer"], summary["domain"], summary["split"]) == ("tfidf", "tools", "validation")
    assert "without_seen" not in summary


def test_summary_means_and_intervals_are_those_of_the_users() -> None:
    metrics = result_of(RANKS).summary()["metrics"]["uniform"]
    assert metrics["hit@1"] == 0.25
    assert metrics["hit@10"] == 0.75
    reciprocal = 1 / np.array([1, 2, 4, 20])
    assert metrics["mrr"] == pytest.approx(reciprocal.mean())
    expected = mean_interval(reciprocal)
    assert metrics["ci"]["mrr"] == list(expected)


def test_summary_without_seen_users_is_of_the_others() -> None:
    summary = result_of({"uniform": [1, 2, 4, 20]}, seen=[True, False, False, True]).summary()
    assert summary["without_seen"]["users"] == 2
    assert summary["without_seen"]["metrics"]["uniform"]["mrr"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert summary["metrics"]["uniform"]["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 20) / 4)


def test_summary_where_all_users_are_seen_has_no_metrics_without_them() -> None:
    summary = result_of({"uniform": [1, 2]}, seen=[True, True]).summary()
    assert summary["without_seen"] == {"users": 0, "metrics": {}}


def test_high_hit_at_1_sets_off_the_leak_alarm() -> None:
    result = result_of({"uniform": [1] * 8 + [5] * 2, "popularity": [1] * 7 + [5] * 3})
    assert result.summary()["warnings"] == [
        "possible leak: hit@1 is 0.800 with uniform negatives, above 0.7: "
        "check that targets are in no history or training set"
    ]


def test_train_purchases_after_half_of_the_targets_set_off_an_alarm() -> None:
    summary = result_of({"uniform": [2, 3]}, train_after=0.4321).summary()
    assert summary["train_after"] == 0.4321
    (warning,) = summary["warnings"]
    assert warning.startswith("43.2% of the train purchases were made after half of these targets")
    assert result_of({"uniform": [2, 3]}, train_after=0.0).warnings() == []


def test_one_score_for_all_sets_off_an_alarm() -> None:
    result = result_of({"uniform": [30, 30, 30], "popularity": [30, 30, 29]})
    (warning,) = result.summary()["warnings"]
    assert "ranks last with uniform negatives" in warning
    assert result_of({"uniform": [30]}).warnings() == [], "one user may well be last"
