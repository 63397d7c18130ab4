"""Recommendations for a file of users: the same as one by one; nothing lost or redone when the process is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from xcrossrec.catalogue import Filters
from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain
from xcrossrec.engine import Local, Make, Parts
from xcrossrec.exceptions import DataError
from xcrossrec.recommender import Question, Recommender, job, ranking
from xcrossrec.recommender.job import BatchReport, job_of, recommend_batch
from xcrossrec.replacing import claimed

RUNNER = CliRunner()
HISTORIES = [
    ["i0", "i1"],
    ["A train nobody has seen", "i3"],
    ["title:Drill bit set"],
    ["id:i5", "Another free title", "A train nobody has seen"],
    ["i4"],
]


def write_users(path: Path, histories: list[Any], *, group: int, ids: list[Any] | None = None) -> Path:
    ids = [f"u{n}" for n in range(len(histories))] if ids is None else ids
    table = pa.table({"note": ["x"] * len(ids), "user_id": ids, "history": pa.array(histories, pa.list_(pa.string()))})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return write_users(tmp_path / "users.parquet", HISTORIES, group=2)


@pytest.fixture
def late(tiny_domain: Domain, tiny_models: Any) -> Recommender:
    return Recommender.from_pretrained(tiny_models.late, tiny_domain)


def run(recommender: Recommender, users: Path, out: Path, asked: Question | None = None, **options: Any) -> BatchReport:
    asked = asked or Question([], 3)
    told = {"users": str(users), "asked": repr(asked)}
    return recommend_batch(recommender, users, out, job=told, asked=asked, **options)


# ---- what comes out


@pytest.mark.parametrize("kind", ["late", "pair"])
def test_everyone_gets_what_recommend_gives(
    kind: str, tiny_domain: Domain, tiny_models: Any, users: Path, tmp_path: Path
) -> None:
    recommender = Recommender.from_pretrained(getattr(tiny_models, kind), tiny_domain)
    assert run(recommender, users, tmp_path / "out.parquet") == BatchReport(3, 0, 5, 0)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.columns == ["user_id", "item_ids", "scores", "unknown", "error"]
    assert found["user_id"].to_list() == ["u0", "u1", "u2", "u3", "u4"]
    for row, history in enumerate(HISTORIES):
        expected = recommender.recommend(history, 3)
        assert found["item_ids"][row].to_list() == [each.item_id for each in expected]
        assert found["scores"][row].to_list() == pytest.approx([each.score for each in expected], abs=1e-5)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(3)] == [2, 2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "users.parquet"]


def test_free_titles_of_many_users_are_encoded_together(
    late: Recommender, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[list[str]] = []
    original = ranking.encode_titles
    monkeypatch.setattr(ranking, "encode_titles", lambda m, titles: encoded.append(titles) or original(m, titles))
    run(late, write_users(tmp_path / "one.parquet", HISTORIES, group=99), tmp_path / "out.parquet")
    assert encoded == [["A train nobody has seen", "Another free title"]]


def test_settings_reach_the_ranking(late: Recommender, users: Path, tmp_path: Path) -> None:
    run(late, users, tmp_path / "with.parquet", Question([], 6, include_bought=True))
    assert set(pl.read_parquet(tmp_path / "with.parquet")["item_ids"][0]) == {f"i{n}" for n in range(6)}
    run(late, users, tmp_path / "without.parquet", Question([], 6))
    assert set(pl.read_parquet(tmp_path / "without.parquet")["item_ids"][0]) == {"i2", "i3", "i4", "i5"}


def test_one_users_error_is_nobody_elses(late: Recommender, tmp_path: Path) -> None:
    histories = [["i0"], [], None, ["B00X", "i1"], ["title: "], [None, "i2"], ["B00X"]]
    users = write_users(tmp_path / "users.parquet", histories, group=10, ids=list(range(7)))
    assert run(late, users, tmp_path / "out.parquet") == BatchReport(1, 0, 7, 5)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["user_id"].dtype == pl.Int64
    errors = found["error"].to_list()
    assert [error is None for error in errors] == [True, False, False, False, False, True, False]
    for place in (1, 2):
        said = f"the history beside the purchases of '{place}', of which none are known here, is empty: give at least"
        assert said in errors[place]
    assert "unknown item id 'B00X'" in errors[3]
    assert "' ' is an empty title: give its text" in errors[4]
    assert found["item_ids"].list.len().to_list() == [3, 0, 0, 0, 0, 3, 0]
    report = run(late, users, tmp_path / "skipped.parquet", Question([], 3, skip_unknown=True))
    assert (report.errors, report.nothing) == (4, 0)
    skipped = pl.read_parquet(tmp_path / "skipped.parquet")
    assert skipped["unknown"].to_list() == [[], [], [], ["B00X"], [], [], []]
    assert skipped["item_ids"][3].to_list() == [each.item_id for each in late.recommend(["i1"], 3)]


def test_a_failure_that_is_no_users_stops_the_job(
    late: Recommender, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(ranking, "ids_bought", fail)
    with pytest.raises(ZeroDivisionError, match="broken"):
        run(late, users, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_of_nobody(late: Recommender, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", [], group=1)
    assert run(late, users, tmp_path / "out.parquet").users == 0
    assert pl.read_parquet(tmp_path / "out.parquet").height == 0


# ---- mistakes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"history": [["i0"]]}, "lacks the column 'user_id'; it has history"),
        ({"user_id": ["u"], "history": ["i0"]}, "the column history of .* is of type (large_)?string: write a list"),
        ({"user_id": [["u"]]}, r"the column user_id of .* is of type (large_)?list<.*: write ids as text or as whole"),
        ({"user_id": [b"\xff"], "history": [["i0"]]}, "user_id of .* is of type binary: write ids as text"),
        ({"user_id": ["u"], "history": [[1]]}, "is of type (large_)?list<.*int64>: write a list of text"),
    ],
)
def test_columns_are_checked_first(columns: Any, message: str, late: Recommender, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "users.parquet")
    with pytest.raises(DataError, match=message):
        run(late, tmp_path / "users.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


def test_files_are_checked_first(late: Recommender, users: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet does not exist"):
        run(late, tmp_path / "nowhere.parquet", tmp_path / "out.parquet")
    (tmp_path / "text.parquet").write_text("user_id,history")
    with pytest.raises(DataError, match=r"is not a readable Parquet file .*: write the users as Parquet"):
        run(late, tmp_path / "text.parquet", tmp_path / "out.parquet")
    with pytest.raises(DataError, match=r"the folder .*missing does not exist"):
        run(late, users, tmp_path / "missing" / "out.parquet")


def test_a_pair_model_and_a_large_catalogue(tiny_models: Any, users: Path, tmp_path: Path) -> None:
    many = pl.DataFrame({"item_id": [f"i{n}" for n in range(2001)], "title": ["Red train"] * 2001})
    recommender = Recommender.from_pretrained(tiny_models.pair, many)
    with pytest.raises(DataError, match="each of 2001 items, at most 2000"):
        run(recommender, users, tmp_path / "out.parquet")


# ---- files of other jobs


def test_a_finished_job_is_not_done_again(late: Recommender, users: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    run(late, users, out)
    before = out.stat()
    assert run(late, users, out) == BatchReport(3, 3, 5, 0)
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(DataError, match="exists and is not this job's: choose another --out, or give --overwrite"):
        run(late, users, out, Question([], 1))
    run(late, users, out, Question([], 1), overwrite=True)
    assert pl.read_parquet(out)["item_ids"].list.len().to_list() == [1] * 5
    (tmp_path / "mine.parquet").write_text("precious")
    for taken in (tmp_path / "mine.parquet", users):
        before = taken.read_bytes()
        with pytest.raises(DataError, match="exists and is not this job's: choose another --out, or remove it"):
            run(late, users, taken, overwrite=True)
        assert taken.read_bytes() == before
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"xcrossrec": "5"}), tmp_path / "five.parquet")
    with pytest.raises(DataError, match="exists and is not this job's"):
        run(late, users, tmp_path / "five.parquet")


class StoppedAfter(Local):
    """An engine that is interrupted after so many row groups."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def results(self, make: Make, blocks: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        yield from islice(super().results(make, blocks), self.parts)
        raise KeyboardInterrupt


def test_an_unfinished_job_of_other_settings_is_refused(late: Recommender, users: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(late, users, out, engine=StoppedAfter(1))
    assert not out.exists()
    with pytest.raises(DataError, match="unfinished output of other users, another model, catalogue or settings"):
        run(late, users, out, Question([], 1))
    assert run(late, users, out).resumed == 1
    with pytest.raises(KeyboardInterrupt):
        run(late, users, tmp_path / "two.parquet", engine=StoppedAfter(2))
    assert run(late, users, tmp_path / "two.parquet", Question([], 1), overwrite=True).resumed == 0


def test_a_half_written_part_is_written_again(late: Recommender, users: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(late, users, tmp_path / "out.parquet", engine=StoppedAfter(1))
    half = tmp_path / ".out.parquet.parts" / ".000001.part.0123abcd.writing"
    half.write_bytes(b"PAR1 half")
    assert run(late, users, tmp_path / "out.parquet") == BatchReport(3, 1, 5, 0)
    assert not half.exists()


def test_two_processes_do_not_write_one_output(late: Recommender, users: Path, tmp_path: Path) -> None:
    parts = tmp_path / ".out.parquet.parts"
    parts.mkdir()
    with claimed(parts), pytest.raises(DataError, match=r"another process is at work in .*\.parts: wait"):
        run(late, users, tmp_path / "out.parquet")


def test_a_job_is_its_users_model_catalogue_and_settings(
    late: Recommender, tiny_domain: Domain, tiny_models: Any, users: Path, tmp_path: Path
) -> None:
    own = job_of(late, tiny_models.late, users, Question([]))
    assert own == json.loads(json.dumps(own))
    assert own == job_of(late, tiny_models.late, users, Question([]))
    others = [
        job_of(late, tiny_models.late, users, Question([], skip_unknown=True)),
        job_of(late, tiny_models.pair, users, Question([])),
        job_of(late, tiny_models.late, users, Question([], filters=Filters({"b", "a"}))),
        job_of(late, tiny_models.late, write_users(tmp_path / "o.parquet", HISTORIES[1:], group=2), Question([])),
    ]
    loud = Recommender(late.model, tiny_domain.items.with_columns(title=pl.col("title").str.to_uppercase()))
    others.append(job_of(loud, tiny_models.late, users, Question([])))
    assert len({json.dumps(each) for each in [own, *others]}) == 6


def test_who_is_forgotten_meanwhile_is_in_no_part_of_a_job_that_goes_on(
    late: Recommender, tiny_models: Any, users: Path, tmp_path: Path
) -> None:
    """The model alone may have known her."""

    def go(**options: Any) -> BatchReport:
        told = job_of(late, tiny_models.late, users, Question([], 3))
        return recommend_batch(late, users, tmp_path / "out.parquet", job=told, asked=Question([], 3), **options)

    with pytest.raises(KeyboardInterrupt):
        go(engine=StoppedAfter(1))
    late.catalogue.forget("anna")
    with pytest.raises(DataError, match=r"unfinished output of .* or one begun before a customer was forgotten: give"):
        go()
    assert go(overwrite=True).resumed == 0


# ---- the command, and a real kill


def command(tiny_models: Any, folder: Path, users: Path, out: Path) -> list[str]:
    named = [str(tiny_models.late), str(users), "--catalog", str(folder), "--out", str(out)]
    return ["recommend-batch", *named, "-k", "3", "--json"]


def test_the_command(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "tiny")
    users = write_users(tmp_path / "users.parquet", [*HISTORIES, ["B00X"]], group=3)
    given = command(tiny_models, tmp_path / "tiny", users, tmp_path / "out.parquet")
    done = RUNNER.invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["users"], report["errors"], report["resumed"]) == (6, 1, 0)
    text = RUNNER.invoke(app, given[:-1], catch_exceptions=False)
    assert "6 users in 2 row groups" in text.stdout
    assert "2 of the row groups were there from an earlier run" in text.stdout
    assert "1 users have no recommendations" in text.stdout
    dear = [*given[:-1], "--overwrite", "--price-min", "1e6"]
    assert "5 users get nothing: no item meets the filters" in RUNNER.invoke(app, dear, catch_exceptions=False).stdout
    RUNNER.invoke(app, [*given, "--overwrite"], catch_exceptions=False)
    other = RUNNER.invoke(app, [*given, "--skip-unknown"], catch_exceptions=False)
    assert (other.exit_code, other.stdout) == (2, "")
    assert "not this job's" in other.stderr
    nobody = RUNNER.invoke(app, command(tiny_models, tmp_path / "tiny", tmp_path / "nowhere", tmp_path / "out.parquet"))
    assert (nobody.exit_code, nobody.stdout) == (2, "")
    assert "nowhere does not exist: give a Parquet file with user_id and history" in nobody.stderr


def test_a_killed_run_goes_on(
    tiny_domain: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished when the job stopped is kept, bit for bit, and the rest comes out as if nothing had stopped."""
    write_domain(tiny_domain, tmp_path / "tiny")
    users = write_users(tmp_path / "users.parquet", [[f"i{n % 6}", f"Free title {n}"] for n in range(24)], group=4)
    out, parts = tmp_path / "out.parquet", tmp_path / ".out.parquet.parts"
    given = command(tiny_models, tmp_path / "tiny", users, out)
    write, join = Parts.write, job._join
    kept: dict[Path, bytes] = {}

    def die(self: Any, name: str, result: bytes) -> None:
        if name == "000002":
            raise KeyboardInterrupt
        write(self, name, result)

    def look(*values: Any) -> None:
        kept.update({path: path.read_bytes() for path in finished})
        join(*values)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", die)
        stopped = RUNNER.invoke(app, given)
        assert stopped.exit_code == 130
        assert stopped.stderr.endswith("interrupted: finished work is kept, run the same command again to resume\n")
    finished = {path: path.read_bytes() for path in parts.glob("*.part")}
    assert len(finished) == 2
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(job, "_join", look)
        done = RUNNER.invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == 2
    assert kept == finished
    whole = command(tiny_models, tmp_path / "tiny", users, tmp_path / "whole.parquet")
    assert RUNNER.invoke(app, whole, catch_exceptions=False).exit_code == 0
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "whole.parquet"))
    assert not parts.exists()
