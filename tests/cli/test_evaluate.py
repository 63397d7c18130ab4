"""Measuring commands: the promised JSON, kept candidates, comparison, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from xcrossrec.baselines.names import BASELINES
from xcrossrec.cli import app, console, evaluate
from xcrossrec.data import Domain, build_domain, read_domain, write_domain
from xcrossrec.evaluation import Evaluation
from xcrossrec.evaluation import evaluate as ranked
from xcrossrec.models.scorer import untrained
from xcrossrec.models.tokens import CutReport

RUNNER = CliRunner()
METRICS = {"hit@1", "hit@10", "mrr", "ndcg@10", "ci"}


@pytest.fixture(scope="module")
def domain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty items and users enough for 29 negatives."""
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(60)], "title": [f"Red train part {n}" for n in range(60)]})
    rows = {
        split: [(f"{split}{user}", f"i{(7 * user + 5 * step) % 60}") for user in range(users) for step in range(4)]
        for split, users in (("train", 60), ("validation", 8))
    }
    frames = {s: pl.DataFrame(r, schema=["user_id", "item_id"], orient="row") for s, r in rows.items()}
    path = tmp_path_factory.mktemp("domains") / "sixty"
    write_domain(build_domain("sixty", items, frames), path)
    return path


def invoke(*arguments: object) -> Any:
    return RUNNER.invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_json_is_one_object_of_the_promised_form(domain_dir: Path, tiny_models: Any) -> None:
    done = invoke("evaluate", tiny_models.late, domain_dir, "--split", "validation", "--seed", 3, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["users"], found["seed"]) == (8, 3)
    assert set(found["metrics"]) == {"uniform", "popularity", "full"}
    for metrics in found["metrics"].values():
        assert set(metrics) == METRICS
        low, high = metrics["ci"]["mrr"]
        assert low <= metrics["mrr"] <= high
    assert found["without_seen"]["users"] == 8
    kept = {path.name for path in (domain_dir / "candidates").iterdir()}
    assert {"validation-uniform-seed3.parquet", "validation-popularity-seed3.parquet"} <= kept


@pytest.mark.parametrize("which", [f"baseline:{name}" for name in BASELINES])
def test_baselines_are_measured(which: str, domain_dir: Path, tiny_models: Any) -> None:
    done = invoke("evaluate", which, domain_dir, "--base", tiny_models.base, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert "without_seen" not in found
    assert found["scorer"].startswith(which.removeprefix("baseline:"))


def test_the_centered_baseline_ranks_by_centered_vectors(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    arguments = ("--base", tiny_models.base, "--negatives", "full", "--out", tmp_path / "centered.parquet")
    done = invoke("evaluate", "baseline:centered", domain_dir, *arguments)
    assert done.exit_code == 0, done.stderr
    domain = read_domain(domain_dir)
    plain, centered = (
        ranked(untrained(str(tiny_models.base), domain.titles, center=center), domain, "validation", negatives=["full"])
        for center in (False, True)
    )
    found = Evaluation.load(tmp_path / "centered.parquet")
    assert found.frame.equals(centered.frame)
    assert not found.frame.equals(plain.frame)


def test_a_table_for_people_and_results_to_compare(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    mean = "+".join(map(str, tiny_models.sources))
    common = ("--negatives", "uniform,full", "--out")
    done = invoke("evaluate", mean, domain_dir, *common, tmp_path / "mean.parquet")
    assert done.exit_code == 0, done.stderr
    assert "sixty validation: 8 users" in done.stdout
    assert "popularity" not in done.stdout
    assert "mean(" in done.stdout
    invoke("evaluate", tiny_models.late, domain_dir, *common, tmp_path / "late.parquet")
    compared = invoke("compare", tmp_path / "late.parquet", tmp_path / "mean.parquet", "--json")
    found = json.loads(compared.stdout)
    assert found["a"] == "late"
    assert found["b"].startswith("mean(")
    assert {"difference", "ci", "p"} <= set(found["metrics"]["uniform"]["mrr"])
    text = invoke("compare", tmp_path / "late.parquet", tmp_path / "mean.parquet")
    assert "MRR of late  MRR of mean(" in text.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere", "DIR"], "'nowhere' is no model"),
        (["evaluate", "baseline:x", "DIR"], "unknown baseline 'x'"),
        (["evaluate", "baseline:popularity", "/nowhere"], "no domain folder at /nowhere"),
        (["evaluate", "baseline:popularity", "DIR", "--split", "test"], "has no 'test' split"),
        (
            ["evaluate", "baseline:popularity", "DIR", "--negatives", "hard"],
            "--negatives is 'hard': give one or more of uniform,popularity,full, each once",
        ),
        (["evaluate", "baseline:popularity", "DIR", "--negatives", " , "], "--negatives is ' , ': give one"),
        (["evaluate", "baseline:popularity", "DIR", "--out", "/dev/null/x/y.parquet"], "/dev/null"),
        (["compare", "/nowhere/a.parquet", "/nowhere/b.parquet"], "no results file at /nowhere/a.parquet"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, domain_dir: Path) -> None:
    done = invoke("-q", *[domain_dir if argument == "DIR" else argument for argument in arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_read_only_domain_gets_no_candidate_files(
    tiny_domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.os, "access", lambda path, mode: False)
    assert console.first_writable(tmp_path) is None


def test_a_pair_model_does_not_rank_a_large_catalogue_unasked(
    domain_dir: Path, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "LARGE_FOR_PAIR", 50)
    done = invoke("evaluate", tiny_models.pair, domain_dir, "--json")
    assert set(json.loads(done.stdout)["metrics"]) == {"uniform", "popularity"}
    assert "the full catalogue of 60 items is left out" in done.stderr


def test_what_was_cut_is_said(domain_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invoke("--version")
    console.report_cut(CutReport())
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(console.log, "info", said.append)
        console.report_cut(CutReport(2, 5, 1, 3), 256)
    assert said == [
        "cut: 2 texts outgrew the model's room of 256 tokens; 5 of their oldest history items were left out, "
        "3 items of histories shortened, 1 single texts cut"
    ]


@pytest.fixture(scope="module")
def branded_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who are true to one of six brands; the titles say nothing."""
    items = [{"item_id": f"i{n}", "title": f"part {n}", "brand": f"brand{n % 6}", "colour": "red"} for n in range(60)]
    rows = {
        split: [{"user_id": f"{split}{user}", "item_id": f"i{user % 6 + 6 * ((user + 3 * step) % 10)}"}
                for user in range(users) for step in range(4)]
        for split, users in (("train", 60), ("validation", 24))
    }  # fmt: skip
    path = tmp_path_factory.mktemp("branded") / "branded"
    write_domain(build_domain("branded", items, rows, text="{title}; {brand}"), path)
    return path


def test_what_a_field_is_worth_is_said_first_and_paired(branded_dir: Path) -> None:
    done = invoke("evaluate", "baseline:tfidf", branded_dir, "--without", "brand", "--without", "title")
    assert done.exit_code == 0, done.stderr
    first, second, _, caption, *_ = done.stdout.splitlines()
    assert first.startswith("tfidf ranks better than tfidf without brand: MRR +0.")
    assert "Against uniform negatives and against the whole catalogue it ranks better, too." in first
    assert second.startswith("tfidf cannot be told apart from tfidf without title")
    assert caption.startswith("branded validation: 24 users")
    found = json.loads(invoke("evaluate", "baseline:tfidf", branded_dir, "--without", "brand", "--json").stdout)
    entry = found["without"]["brand"]["metrics"]["popularity"]["mrr"]
    assert entry["mean_a"] == found["metrics"]["popularity"]["mrr"]
    assert entry["ci"][0] > 0
    assert entry["users"] == 24
    assert {path.name for path in (branded_dir / "candidates").iterdir()} == {
        "validation-uniform-seed0.parquet", "validation-popularity-seed0.parquet"
    }  # fmt: skip


def test_a_model_is_bound_to_the_texts_without_the_field(branded_dir: Path, tiny_models: Any) -> None:
    given = ("--base", tiny_models.base, "--negatives", "full", "--without", "brand", "--json")
    done = invoke("evaluate", "baseline:untrained", branded_dir, *given)
    found = json.loads(done.stdout)
    domain = read_domain(branded_dir)
    for texts, mean in ((domain.texts, "mean_a"), (domain.titles, "mean_b")):
        scorer = untrained(str(tiny_models.base), texts)
        expected = ranked(scorer, domain, "validation", negatives=["full"]).frame["mrr"].mean()
        assert found["without"]["brand"]["metrics"]["full"]["mrr"][mean] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("price", "the items of domain 'branded' have no column 'price', they have title, brand, colour: give one of"),
        (
            "colour",
            "baseline:tfidf does not read 'colour': its item text is '{title}; {brand}'; give one of title, brand",
        ),
    ],
)
def test_a_field_that_is_not_read_is_refused(field: str, message: str, branded_dir: Path) -> None:
    done = invoke("evaluate", "baseline:tfidf", branded_dir, "--without", field)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_last_field_is_not_taken_away(domain_dir: Path) -> None:
    done = invoke("evaluate", "baseline:tfidf", domain_dir, "--without", "title")
    assert "without 'title' nothing of the item text '{title}' is left to read" in done.stderr


def test_a_small_catalogue_is_ranked_as_a_whole(tmp_path: Path) -> None:
    items = {"item_id": list("abcde"), "title": list("ABCDE")}
    bought = {"user_id": ["u"] * 2 + ["v"] * 2, "item_id": ["a", "b", "b", "c"]}
    write_domain(build_domain("small", items, {"train": bought, "validation": bought}), tmp_path / "d")
    done = invoke("evaluate", "baseline:popularity", tmp_path / "d", "--json")
    assert "uniform and popularity negatives are left out: no user has enough items left to draw from" in done.stderr
    assert [*json.loads(done.stdout)["metrics"]] == ["full"]
    asked = invoke("evaluate", "baseline:popularity", tmp_path / "d", "--negatives", "uniform")
    assert (asked.exit_code, "rank the whole one (--negatives full)" in asked.stderr) == (2, True)


@pytest.mark.parametrize("name", ["orders.csv", "orders.parquet"])
def test_results_are_not_written_over_anything_else(name: str, domain_dir: Path, tmp_path: Path) -> None:
    orders = pl.DataFrame({"user": ["u"]})
    getattr(orders, f"write_{Path(name).suffix[1:]}")(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    done = invoke("evaluate", "baseline:popularity", domain_dir, "--out", tmp_path / name)
    assert (done.exit_code, (tmp_path / name).read_bytes()) == (2, before)
    assert "exists and holds no results of xcrossrec evaluate: it is left alone, choose another name" in done.stderr
