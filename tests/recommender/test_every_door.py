"""The command line, the batch job and the service give the same ids in the same order, whatever holds the catalogue."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from xcrossrec.catalogue import build_catalogue, read_items
from xcrossrec.cli import app
from xcrossrec.models import bundle
from xcrossrec.recommender import Answer, Item, Question, Recommender
from xcrossrec.serving.app import create_app
from xcrossrec.serving.served import Spec
from xcrossrec.serving.service import Service
from xcrossrec.serving.settings import Settings

HISTORIES = {"late": 200, "shared": 8}
"""Of a `pair` model fewer: it reads every item with each."""

K = 5
COMMAND = typer.main.get_command(app)
WORDS = ("red", "blue", "wooden", "train", "track", "drill", "bit", "tape", "saw", "garage")


@dataclass(frozen=True)
class Case:
    """Conditions as each door takes them."""

    flags: Sequence[str] = ()
    body: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "whole": Case(),
    "filtered": Case(
        ("--category", "toys", "--category", "tools", "--in-stock", "--price-min", "2", "--price-max", "60"),
        {"filters": {"category": ["toys", "tools"], "in_stock": True, "price_min": 2.0, "price_max": 60.0}},
    ),
}


def title(number: int) -> str:
    """Titles of the catalogue; every seventh item has that of the one before it."""
    number -= number % 7 == 6
    return f"{WORDS[number % 10]} {WORDS[number * 7 % 9]} number {number}"


def table(items: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [title(n) for n in range(items)],
            "category": [("toys", "tools", "paper")[n % 3] for n in range(items)],
            "in_stock": [n % 4 != 0 for n in range(items)],
            "price": [None if n % 11 == 0 else float(n) for n in range(items)],
        }
    )


def histories(items: int, count: int) -> list[list[str]]:
    """Mixed histories: ids, titles of the catalogue (those of twins too), free titles, unknown ids, repetitions."""
    rng = random.Random(0)
    kinds = (
        lambda: f"i{rng.randrange(items)}",
        lambda: f"id:i{rng.randrange(items)}",
        lambda: f"title: {title(rng.randrange(items))} ",
        lambda: title(7 * rng.randrange(items // 7) + 6),
        lambda: f"{rng.choice(WORDS)} that nobody has, {rng.randrange(40)}",
        lambda: f"gone{rng.randrange(9)}",
    )
    mixed = [[rng.choice(kinds)() for _ in range(rng.randint(1, 6))] for _ in range(count)]
    return [[*history, f"i{rng.randrange(items)}"] if _all_unknown(history) else history for history in mixed]


def _all_unknown(history: Sequence[str]) -> bool:
    return all(entry.startswith("gone") for entry in history)


def entry(text: str) -> dict[str, str]:
    """A history's string as JSON."""
    for kind in ("id", "title"):
        if text.startswith(f"{kind}:"):
            return {kind: text.removeprefix(f"{kind}:")}
    return {"title": text} if " " in text else {"id": text}


def as_item(named: Mapping[str, str]) -> Item:
    return Item(item_id=named["id"]) if "id" in named else Item(title=named["title"])


# ---- the doors: each gives, for every history, the ids in their order and the ids that were left out

Answers = list[tuple[list[str], list[str]]]


def command(*words: str) -> str:
    """Run the command line in this process; a mistake would end it."""
    with redirect_stdout(io.StringIO()) as printed:
        COMMAND.main(list(words), standalone_mode=False)
    return printed.getvalue()


def by_command(model: Path, catalog: Path, asked: Sequence[Sequence[str]], case: Case) -> Answers:
    """Ask the command once for each history; model and catalogue are loaded once, for time."""
    answers = []
    with Recommender.from_pretrained(model, catalog) as loaded, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recommender, "from_pretrained", lambda *_, **__: loaded)
        patch.setattr(Recommender, "close", lambda _: None)
        for history in asked:
            words = [word for text in history for word in ("--history", text)]
            given = ["recommend", str(model), "--catalog", str(catalog), *words, "-k", str(K), "--skip-unknown"]
            found = json.loads(command(*given, *case.flags, "--json"))
            ranks = [each["rank"] for each in found["recommendations"]]
            assert ranks == list(range(1, len(ranks) + 1))
            answers.append(([each["item_id"] for each in found["recommendations"]], found["unknown"]))
    return answers


def by_job(model: Path, catalog: Path, asked: Sequence[Sequence[str]], case: Case, folder: Path) -> Answers:
    users, out = folder / "users.parquet", folder / "out.parquet"
    columns = {"user_id": list(range(len(asked))), "history": pa.array([list(each) for each in asked])}
    pq.write_table(pa.table(columns), users, row_group_size=64)
    given = ["recommend-batch", str(model), str(users), "--catalog", str(catalog), "--out", str(out), "-k", str(K)]
    command(*given, "--skip-unknown", *case.flags)
    found = pl.read_parquet(out)
    assert found["error"].null_count() == len(asked)
    return list(zip(found["item_ids"].to_list(), found["unknown"].to_list(), strict=True))


def by_service(model: Path, catalog: Path, asked: Sequence[Sequence[str]], case: Case) -> Answers:
    """Put all requests at once, so that they are answered in batches."""
    service = Service.start([Spec("toys", model, catalog)], Settings(queue=len(asked), timeout_s=60.0))
    transport = httpx.ASGITransport(app=create_app(service), client=("127.0.0.1", 1))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            bodies = [
                {"history": [entry(text) for text in each], "k": K, "skip_unknown": True, **case.body} for each in asked
            ]
            return await asyncio.gather(*(client.post("/v1/recommend", json=body) for body in bodies))

    try:
        answers = asyncio.run(ask())
    finally:
        service.close()
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    return [([i["item_id"] for i in a.json()["items"]], a.json()["unknown"]) for a in answers]


# ---- the contract


def expected(model: Any, frame: pl.DataFrame, asked: Sequence[Sequence[str]], case: Case) -> Answers:
    """The slow and obvious way: score every item that may be found, leave out by id and by title, sort."""
    rows = frame.filter(_meets(case)).to_dicts()
    title_of = dict(zip(frame["item_id"], frame["title"], strict=True))
    questions: list[Question] = []
    left: list[list[dict[str, Any]]] = []
    unknowns: list[list[str]] = []
    for history in asked:
        named = [entry(text) for text in history]
        unknown = [each["id"] for each in named if "id" in each and each["id"] not in title_of]
        known = [each for each in named if each.get("id") not in unknown]
        titles = {title_of[each["id"]] if "id" in each else each["title"].strip() for each in known}
        left.append([row for row in rows if row["title"] not in titles])
        items = [Item(title=text) for text in dict.fromkeys(row["title"] for row in left[-1])]
        questions.append(Question([as_item(each) for each in known], to_score=items))
        unknowns.append(unknown)
    answers = []
    for answer, own, unknown in zip(Recommender(model, frame).answer(questions), left, unknowns, strict=True):
        assert isinstance(answer, Answer)
        score_of = {score.title: score.score for score in answer.scores}
        best = sorted(own, key=lambda row: -score_of[row["title"]])[:K]  # equal titles have one score
        answers.append(([row["item_id"] for row in best], unknown))
    return answers


def _meets(case: Case) -> pl.Expr:
    if not case.body:
        return pl.lit(value=True)
    return pl.col("category").is_in(["toys", "tools"]) & pl.col("in_stock") & pl.col("price").is_between(2, 60)


@pytest.fixture(params=["late", "shared"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def catalogs(kind: str, tiny_models: Any, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """The same items in a table, of which the commands make a catalogue in memory, and in SQLite."""
    items = 70 if kind == "late" else 14
    table(items).write_csv(tmp_path / "items.csv")
    build_catalogue(bundle.load(getattr(tiny_models, kind)), read_items(tmp_path / "items.csv"), tmp_path / "c").close()
    return {"in memory": tmp_path / "items.csv", "on SQLite": tmp_path / "c"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_door_gives_the_same(kind: str, catalogs: dict[str, Path], case: Case, tiny_models: Any) -> None:
    model = getattr(tiny_models, kind)
    frame = pl.read_csv(catalogs["in memory"])
    asked = histories(frame.height, HISTORIES[kind])
    wanted = expected(bundle.load(model), frame, asked, case)
    assert any(unknown for _, unknown in wanted)
    for where, catalog in catalogs.items():
        folder = catalog.parent / where.replace(" ", "-")
        folder.mkdir()
        assert by_command(model, catalog, asked, case) == wanted, where
        assert by_job(model, catalog, asked, case, folder) == wanted, where
        assert by_service(model, catalog, asked, case) == wanted, where
