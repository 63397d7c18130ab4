"""A job is the same in whatever process its blocks are worked on; finished blocks are kept and checked."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from elsewhere import Elsewhere
from xcrossrec.catalogue import SqliteCatalogue, build_catalogue, embed_again, encoding, in_blocks
from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain
from xcrossrec.data.readers import Columns, Inputs, by_file, import_domain
from xcrossrec.engine import Engine, Local, Parts, check_engine, engine_named
from xcrossrec.exceptions import ConfigError, DataError, MissingExtraError, XCrossRecError
from xcrossrec.export.exporting import export_model
from xcrossrec.models.bundle import Loading
from xcrossrec.recommender import Question, Recommender
from xcrossrec.recommender.job import job_of, recommend_batch

RUNNER = CliRunner()


# ---- the jobs


def test_a_batch_job_elsewhere(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    histories = [[f"i{n % 6}", f"Free title {n % 5}"] for n in range(12)]
    table = pa.table({"user_id": range(12), "history": pa.array(histories, pa.list_(pa.string()))})
    pq.write_table(table, users := tmp_path / "users.parquet", row_group_size=3)
    with Recommender.from_pretrained(tiny_models.late, tiny_domain) as recommender:
        asked = Question([], 3)
        job = job_of(recommender, tiny_models.late, users, asked)

        def run(name: str, engine: Engine) -> Any:
            return recommend_batch(recommender, users, tmp_path / name, job=job, asked=asked, engine=engine)

        run("local", Local())
        with pytest.raises(KeyboardInterrupt):
            run("elsewhere", Elsewhere(until=1))
        assert run("elsewhere", Elsewhere()).resumed == 1
        assert (tmp_path / "local").read_bytes() == (tmp_path / "elsewhere").read_bytes()
        recommender = Recommender(recommender.model, recommender.catalogue)
        with pytest.raises(
            ConfigError, match=r"other processes cannot load: make it with Recommender\.from_pretrained"
        ):
            run("other", Elsewhere())


def test_embedding_elsewhere(
    tiny_domain: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TEXTS_AT_ONCE", 2)
    first, second = Loading(tiny_models.late), Loading(tiny_models.merged)
    model = second()
    vectors = []
    for name, engine in (("local", Local()), ("elsewhere", Elsewhere())):
        place = tmp_path / name
        build_catalogue(first(), tiny_domain, place).close()
        with (
            pytest.raises(KeyboardInterrupt),
            SqliteCatalogue.open(place, fingerprint=None) as store,
            in_blocks(model, second, Elsewhere(until=1), place) as encode,
        ):
            embed_again(store, model, encode=encode)
        with (
            SqliteCatalogue.open(place, fingerprint=None) as store,
            in_blocks(model, second, engine, place) as encode,
            embed_again(store, model, encode=encode) as made,
        ):
            vectors.append(made.snapshot().vectors(tiny_domain.items["item_id"].to_list()).numpy())
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    assert len(engine.worked) == 2  # of three blocks one was finished
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_vectors_exported_elsewhere(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "tiny")
    for name, engine in (("local", None), ("elsewhere", Elsewhere())):
        export_model(tiny_models.late, "vectors", tmp_path / name, catalogue=tmp_path / "tiny", engine=engine)
    local, elsewhere = (pl.read_parquet(tmp_path / name / "items.parquet") for name in ("local", "elsewhere"))
    assert local.equals(elsewhere)


@pytest.mark.parametrize("apart", [True, False])
def test_files_read_elsewhere(apart: bool, tmp_path: Path) -> None:
    """Whether items stand in files of their own, in several ones, or among the interactions."""
    for part in range(3):
        rows = [(f"u{n % 7}", f"i{(n + part) % 5}", 100 * part + n, f"Title {(n + part) % 5}") for n in range(20)]
        table = pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "title"], orient="row")
        (table.drop("title") if apart else table).write_csv(tmp_path / f"bought{part}.csv")
        titles = {"item_id": [f"i{part}", f"i{part + 1}", f"i{part + 2}"], "title": ["One", f"Two {part}", "Three"]}
        pl.DataFrame(titles).write_parquet(tmp_path / f"items{part}.parquet")
    items = [tmp_path / f"items{part}.parquet" for part in range(3)] if apart else ()
    inputs = Inputs([tmp_path / f"bought{part}.csv" for part in range(3)], items)
    local = import_domain("shop", None, inputs)
    engine = Elsewhere()
    with pytest.raises(KeyboardInterrupt), by_file(Elsewhere(until=2), tmp_path / "out", None, inputs) as blocks:
        import_domain("shop", None, inputs, None, blocks)
    with by_file(engine, tmp_path / "out", None, inputs) as blocks:
        made = import_domain("shop", None, inputs, None, blocks)
    assert len(engine.worked) == 4
    assert made.fingerprint == local.fingerprint
    told = [{name: each.manifest[name] for name in ("sources", "filters")} for each in (made, local)]
    assert told[0] == told[1]
    assert local.manifest["filters"]["rows"]["read"] == 60
    assert not list(tmp_path.glob(".out*"))


def test_faults_of_files_read_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(
        "user_id,item_id,timestamp,title\nu,i,5,Train\nu,j,6,Bell\nu,k,7,Bus\nu,,8,Bell\n"
    )
    (tmp_path / "bad.csv").write_text("user_id,item_id,timestamp,title\nu,i,soon,Train\n")
    for names, message in ((("good",), "1 of 4 rows .* lack an item"), (("good", "bad"), "row 1: timestamp 'soon'")):
        inputs = Inputs([tmp_path / f"{name}.csv" for name in names])
        with pytest.raises(DataError, match=message), by_file(Elsewhere(), tmp_path / "out", None, inputs) as blocks:
            import_domain("shop", None, inputs, None, blocks)
    other = Inputs([tmp_path / "good.csv"], columns=Columns(), incomplete="drop")
    with by_file(Elsewhere(), tmp_path / "out", None, other) as blocks:
        assert import_domain("shop", None, other, None, blocks).manifest["filters"]["rows"]["incomplete"] == 1


def test_empty_files_read_elsewhere_are_left_out(tmp_path: Path) -> None:
    """As they are here: jobs leave them beside others."""
    (tmp_path / "full.csv").write_text("user_id,item_id,timestamp,title\nu,i,5,Train\nu,j,6,Bell\nu,k,7,Bus\n")
    (tmp_path / "none.csv").write_text("")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as packed:
        packed.writestr("none.csv", "")
    files = [tmp_path / name for name in ("none.csv", "full.csv", "none.zip")]
    for inputs in (Inputs(files), Inputs(files, files)):
        with by_file(Elsewhere(), tmp_path / "out", None, inputs) as blocks:
            made = import_domain("shop", None, inputs, None, blocks)
        assert made.fingerprint == import_domain("shop", None, inputs).fingerprint
    for name in ("none.csv", "none.zip"):
        empty = Inputs(tmp_path / name)
        with pytest.raises(DataError, match=f"{name} is empty: give a file with rows"):
            import_domain("shop", None, empty)
        with (
            pytest.raises(DataError, match=f"{name} holds no interactions: .* give the right file"),
            by_file(Elsewhere(), tmp_path / "out", None, empty) as blocks,
        ):
            import_domain("shop", None, empty, None, blocks)


def test_an_amazon_release_read_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(
        "A1,B000000001,5.0,1300000000\nA1,B000000002,4.0,1300000001\nA1,B000000004,4.0,1300000002\n"
    )
    meta = [f"{{'asin': 'B00000000{n}', 'title': 'Toy {n}'}}" for n in (1, 2, 3, 4)]
    (tmp_path / "meta.json").write_text("\n".join(meta))
    inputs = Inputs(tmp_path / "reviews.csv", tmp_path / "meta.json")
    with by_file(Elsewhere(), tmp_path / "out", "amazon2014", inputs) as blocks:
        made = import_domain("toys", "amazon2014", inputs, None, blocks)
    assert made.fingerprint == import_domain("toys", "amazon2014", inputs).fingerprint
    assert made.items["title"].to_list() == ["Toy 1", "Toy 2", "Toy 4"]


# ---- parts


def test_what_stopped_before_its_first_part_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stop"), Parts.claimed(tmp_path / "out", {}, overwrite=False):
        raise DataError("stop")
    assert not list(tmp_path.iterdir())


def test_a_part_that_the_disk_changed_is_refused(tmp_path: Path) -> None:
    with Parts.claimed(tmp_path / "out", {}, overwrite=False) as parts:
        parts.write("one", b"result")
        assert parts.read("one") == b"result"
        parts.path("one").write_bytes(b"resulT" + parts.path("one").read_bytes()[6:])
        with pytest.raises(DataError, match=r"one\.part is damaged: remove it and run again"):
            parts.read("one")


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"\0" * 400, None])
def test_a_part_that_is_anothers_or_of_zeros_is_refused(content: bytes | None, tmp_path: Path) -> None:
    with Parts.claimed(tmp_path / "out", {}, overwrite=False) as parts:
        parts.write("one", b"result")
        parts.path("two").write_bytes(parts.path("one").read_bytes() if content is None else content)
        with pytest.raises(DataError, match=r"two\.part is damaged: remove it and run again"):
            parts.read("two")


# ---- the choice


def test_an_engine_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown engine 'spark': choose local or ray"):
        check_engine("spark")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xcrossrec\[ray\]'"), engine_named("ray"):
        raise AssertionError


def test_nobody_at_an_address_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="RAY ABSENT: pip install 'xcrossrec[ray]'; nothing was checked")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(ConfigError, match=r"no Ray cluster answers at '127\.0\.0\.1:1' .*: start one with  ray start"),
        engine_named("ray"),
    ):
        raise AssertionError


def test_a_workers_fault_is_a_sentence_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="RAY ABSENT: pip install 'xcrossrec[ray]'; nothing was checked")
    from xcrossrec._version import __version__
    from xcrossrec.engine import ray

    def full(block: object) -> bytes:
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr(ray, "_work", lambda make: full)
    sent = pa.table({"name": ["one"], "block": [pickle.dumps("block")]})
    for version, message in ((__version__, "No space left on device: '/tmp/x'"), ("0", "this machine has 0: install")):
        (row,) = ray._worked(sent, [None], version).to_pylist()
        with pytest.raises(XCrossRecError, match=message):
            raise ray._fault(row["fault"], row["result"].decode())


def test_commands_refuse_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["data", "import", "--interactions", "nowhere.csv", "--out", str(tmp_path / "out"), "--engine", "ray"]
    done = RUNNER.invoke(app, given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "pip install 'xcrossrec[ray]'" in done.stderr


def test_a_home_that_may_not_be_written_is_named_where_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray writes a key there for a cluster of its own; a container's user often has none."""
    ray = pytest.importorskip("ray", reason="RAY ABSENT: pip install 'xcrossrec[ray]'")

    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/home/nobody")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = (
        r"^Ray did not start on this machine \(.*/home/nobody.*\): give --engine local, or a HOME that may be written"
    )
    with pytest.raises(ConfigError, match=said), engine_named("ray"):
        raise AssertionError("it started")
