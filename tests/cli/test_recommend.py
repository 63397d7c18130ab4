"""The recommending command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.cli.checks import check_items
from xcrossrec.data import Domain, build_domain, write_domain

RUNNER = CliRunner()


@pytest.fixture
def domain_dir(tiny_domain: Domain, tmp_path: Path) -> Path:
    write_domain(tiny_domain, tmp_path / "tiny")
    return tmp_path / "tiny"


def invoke(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["recommend", *map(str, arguments)], catch_exceptions=False)


def test_json_holds_recommendations_with_reasons(domain_dir: Path, tiny_models: Any) -> None:
    history = ["--history", "i0", "--history", "A train nobody has seen"]
    done = invoke(tiny_models.late, "--catalog", domain_dir, *history, "-k", 2, "--explain", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["history"] == ["i0", "A train nobody has seen"]
    first, second = found["recommendations"]
    assert (first["rank"], second["rank"]) == (1, 2)
    assert first["score"] >= second["score"]
    assert "i0" not in {first["item_id"], second["item_id"]}
    assert first["explanation"]["item_id"] == first["item_id"]
    assert {share["source"] for share in first["explanation"]["layers"]} == {"kitchen", "camping"}


def test_text_names_items_and_reasons(domain_dir: Path, tiny_models: Any) -> None:
    done = invoke(tiny_models.late, "--catalog", domain_dir, "--history", "i0", "--explain", "--k", 1)
    assert done.stdout.startswith("  1. ")
    assert "Best match in the history: Red wooden train" in done.stdout
    plain = invoke(tiny_models.late, "--catalog", domain_dir, "--history", "i0", "--candidate", "i4")
    assert plain.stdout.startswith("  1. Drill bit set  [i4]  ")
    assert len(plain.stdout.splitlines()) == 1
    bought = invoke(tiny_models.late, "--catalog", domain_dir, "--history", "i0", "--include-bought", "-k", 1)
    assert "[i0]" in bought.stdout
    nothing = invoke(tiny_models.late, "--catalog", domain_dir, "--history", "i0", "--candidate", "i0")
    assert nothing.stdout == "nothing is left to recommend: every candidate is in the history, or meets no filter\n"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_shops_titles_and_ids_command_no_terminal(form: list[str], tiny_models: Any, tmp_path: Path) -> None:
    """Whoever sells on a market writes its titles."""
    title = "Saw \x1b]0;owned\x07 \x1b[2J \x9b1m \u202ewas"
    rows = [{"item_id": "a\x1b[31m", "title": title}, {"item_id": "b", "title": "Drill"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    done = invoke(tiny_models.late, "--catalog", tmp_path / "items.jsonl", "--history", "b", *form)
    assert r"Saw \u001b]0;owned\u0007 \u001b[2J \u009b1m \u202ewas" in done.stdout
    assert done.stdout.replace("\n", " ").replace("\u202e", "\x1b").isprintable()
    if form:
        assert json.loads(done.stdout)["recommendations"][0]["title"] == title
    lost = RUNNER.invoke(app, ["recommend", str(tiny_models.late), "--catalog", "\x1b[2J", "--history", "b"])
    assert lost.stderr.startswith(r"error: \u001b[2J does not exist")


def test_where_people_buy_the_same_again_it_is_said_that_it_is_left_out(
    tiny_domain: Domain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for repeats, bought, said in (("keep", False, True), ("keep", True, False), ("drop", False, False)):
        manifest = {"filters": {"repeats": repeats}}
        write_domain(
            build_domain("d", tiny_domain.items, tiny_domain.interactions, manifest=manifest),
            tmp_path / "d",
            overwrite=True,
        )
        caplog.clear()
        with caplog.at_level("INFO", "xcrossrec"):
            check_items(tmp_path / "d", include_bought=bought)
        assert ("--include-bought, or include_bought in a request, asks for it, too" in caplog.text) == said


def test_a_long_history_is_cut_and_the_number_said(domain_dir: Path, tiny_models: Any) -> None:
    history = [argument for n in range(12) for argument in ("--history", f"i{n % 6}")]
    done = invoke(tiny_models.pair, "--catalog", domain_dir, *history, "--include-bought")
    assert done.exit_code == 0
    assert "cut: 6 texts outgrew the model's room of 128 tokens" in done.stderr


def test_filters_and_unknown_ids(tiny_models: Any, tmp_path: Path) -> None:
    rows = ["a,Saw,tools,true,5", "b,Drill,tools,false,50", "c,Hammer,tools,true,20", "d,Kite,toys,true,9"]
    (tmp_path / "items.csv").write_text("item_id,title,category,in_stock,price\n" + "\n".join(rows))
    given = (
        tiny_models.late,
        "--catalog",
        tmp_path / "items.csv",
        "--history",
        "a",
        "--history",
        "B00X",
        "--skip-unknown",
    )
    done = invoke(*given, "--category", "tools", "--in-stock", "--price-min", 6, "--price-max", 20)
    assert done.stdout.startswith("  1. Hammer  [c]")
    assert len(done.stdout.splitlines()) == 1
    assert "left out, since the catalogue lacks them: B00X" in done.stderr
    found = json.loads(invoke(*given, "--json").stdout)
    assert found["unknown"] == ["B00X"]
    assert {each["item_id"]: each["price"] for each in found["recommendations"]} == {"b": 50.0, "c": 20.0, "d": 9.0}
    done = invoke(*given, "--price-min", 6, "--price-max", 5)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "price_min 6.0 is above price_max 5.0" in done.stderr


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["B00X"], "unknown item id 'B00X': the catalogue of 6 items lacks it"),
        (["title: "], "empty title"),
        (["id:Red wooden train"], "unknown item id 'Red wooden train'"),
    ],
)
def test_mistakes_are_one_sentence(history: list[str], message: str, domain_dir: Path, tiny_models: Any) -> None:
    given = [argument for item in history for argument in ("--history", item)]
    done = invoke(tiny_models.late, "--catalog", domain_dir, *given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_model_no_catalogue_no_history(domain_dir: Path, tiny_models: Any) -> None:
    assert "does not exist" in invoke("/nowhere", "--catalog", domain_dir, "--history", "i0").stderr
    assert "/nowhere does not exist" in invoke(tiny_models.late, "--catalog", "/nowhere", "--history", "i0").stderr
    missing = invoke(tiny_models.late, "--catalog", domain_dir)
    assert missing.exit_code == 2
    assert "the history is empty" in missing.stderr
