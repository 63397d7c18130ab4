"""The command line, the batch job and the service give the same ids in the same order, whatever holds the catalogue."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer

from xcrossrec.catalogue import Purchase, build_catalogue, read_items
from xcrossrec.cli import app
from xcrossrec.copurchase import CoPurchases
from xcrossrec.models import bundle
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.purchases import with_counts
from xcrossrec.recommender import Answer, Item, Question, Recommender
from xcrossrec.serving.app import create_app
from xcrossrec.serving.service import Service
from xcrossrec.serving.settings import Settings, Spec

HISTORIES = {"late": 60, "text": 20, "shared": 4}
"""Of a `pair` model fewer: it reads every item with each. One model reads brand and category, too."""

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
        (
            "--category",
            "toys",
            "--category",
            "tools",
            "--in-stock",
            "--price-min",
            "2",
            "--price-max",
            "60",
            "--diversity",
            "1",
        ),
        {
            "filters": {"category": ["toys", "tools"], "in_stock": True, "price_min": 2.0, "price_max": 60.0},
            "diversity": 1,
        },
    ),
}


def title(number: int) -> str:
    """Titles of the catalogue, near-equal every twelve items; every seventh item has that of the one before it."""
    number -= number % 7 == 6
    return f"{WORDS[number % 4]} {WORDS[4 + number % 3]} number {number}"


def table(items: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [title(n) for n in range(items)],
            "brand": [None if n % 5 == 0 else f"Maker {n % 4}" for n in range(items)],
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
            return {"item_id" if kind == "id" else kind: text.removeprefix(f"{kind}:")}
    return {"title": text} if " " in text else {"item_id": text}


def as_item(named: Mapping[str, str]) -> Item:
    return Item(item_id=named["item_id"]) if "item_id" in named else Item(title=named["title"])


# ---- the doors: each gives, for every history, the ids in their order and the ids that were left out

Answers = list[tuple[list[str], list[str]]]


def command(*words: str) -> str:
    """Run the command line in this process; a mistake would end it."""
    with redirect_stdout(io.StringIO()) as printed:
        COMMAND.main(list(words), standalone_mode=False)
    return printed.getvalue()


def by_command(model: Path, catalog: Path | str, asked: Sequence[Sequence[str]], case: Case) -> Answers:
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


def by_job(model: Path, catalog: Path | str, asked: Sequence[Sequence[str]], case: Case, folder: Path) -> Answers:
    folder.mkdir()
    users, out = folder / "users.parquet", folder / "out.parquet"
    columns = {"user_id": list(range(len(asked))), "history": pa.array([list(each) for each in asked])}
    pq.write_table(pa.table(columns), users, row_group_size=16)
    given = ["recommend-batch", str(model), str(users), "--catalog", str(catalog), "--out", str(out), "-k", str(K)]
    command(*given, "--skip-unknown", *case.flags)
    found = pl.read_parquet(out)
    assert found["error"].null_count() == len(asked)
    return list(zip(found["item_ids"].to_list(), found["unknown"].to_list(), strict=True))


def by_service(service: Service, asked: Sequence[Sequence[str]], case: Case) -> Answers:
    """Put all requests at once, so that they are answered in batches."""
    transport = httpx.ASGITransport(app=create_app(service), client=("127.0.0.1", 1))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            bodies = [
                {"history": [entry(text) for text in each], "k": K, "skip_unknown": True, **case.body} for each in asked
            ]
            return await asyncio.gather(*(client.post("/v1/recommend", json=body) for body in bodies))

    answers = asyncio.run(ask())
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    return [([i["item_id"] for i in a.json()["items"]], a.json()["unknown"]) for a in answers]


# ---- the contract


def expected(model: Any, frame: pl.DataFrame, asked: Sequence[Sequence[str]]) -> dict[str, Answers]:
    """The slow and obvious way, for each case: score all, leave out by id, title, filter and near-equal title, sort."""
    title_of = dict(zip(frame["item_id"], frame["title"], strict=True))
    to_score = [Item(item_id=item_id) for item_id in frame["item_id"]]
    named = [[entry(text) for text in history] for history in asked]
    unknowns = [
        [each["item_id"] for each in own if "item_id" in each and each["item_id"] not in title_of] for own in named
    ]
    known = [[e for e in own if e.get("item_id") not in gone] for own, gone in zip(named, unknowns, strict=True)]
    scored = Recommender(model, frame).answer([Question([as_item(e) for e in own], to_score=to_score) for own in known])
    answers: dict[str, Answers] = {}
    for name, case in CASES.items():
        rows = frame.filter(_meets(case)).to_dicts()
        answers[name] = []
        for answer, own, unknown in zip(scored, known, unknowns, strict=True):
            assert isinstance(answer, Answer)
            score_of = {score.item_id: score.score for score in answer.scores}
            bought = {title_of[each["item_id"]] if "item_id" in each else each["title"].strip() for each in own}
            left = [row for row in rows if row["title"] not in bought]
            best = sorted(left, key=lambda row: -score_of[row["item_id"]])  # equal texts have one score
            if case.body:
                first = {row["title"].split(" number")[0]: row for row in reversed(best)}
                best = [row for row in best if row in first.values()]
            answers[name].append(([row["item_id"] for row in best[:K]], unknown))
    return answers


def read_by(kind: str, frame: pl.DataFrame) -> list[str]:
    """What a model reads of each item, by hand."""
    parts = [("title", ""), ("brand", "; by "), ("category", "; ")] if kind == "text" else [("title", "")]
    return ["".join(f"{lead}{row[name]}" for name, lead in parts if row[name]) for row in frame.to_dicts()]


def _meets(case: Case) -> pl.Expr:
    if not case.body:
        return pl.lit(value=True)
    return pl.col("category").is_in(["toys", "tools"]) & pl.col("in_stock") & pl.col("price").is_between(2, 60)


@pytest.mark.parametrize("kept", ["folder", "database"])
@pytest.mark.parametrize("kind", HISTORIES)
def test_every_door_gives_the_same(kind: str, kept: str, tiny_models: Any, tmp_path: Path, request: Any) -> None:
    """The commands take the items from a table, of which they make a catalogue in memory, from SQLite, and from
    PostgreSQL."""
    model, csv = getattr(tiny_models, kind), tmp_path / "items.csv"
    place = tmp_path / "catalogue" if kept == "folder" else request.getfixturevalue("postgres")
    table(14 if kind == "shared" else 35).write_csv(csv)
    frame = pl.read_csv(csv)
    asked = histories(frame.height, HISTORIES[kind])
    wanted = expected(bundle.load(model), frame, asked)
    assert any(unknown for _, unknown in wanted["whole"])
    with build_catalogue(bundle.load(model), read_items(csv), place) as built:
        vectors = built.snapshot().vectors(frame["item_id"].to_list())
        if kind != "shared":
            torch.testing.assert_close(vectors, encode_titles(bundle.load(model), read_by(kind, frame)))
    places = (csv, place) if kept == "folder" else (place,)
    for number, (name, case, catalog) in enumerate((n, c, w) for n, c in CASES.items() for w in places):
        # one by one a tenth of them, another tenth each time
        assert by_command(model, catalog, asked[number::10], case) == wanted[name][number::10], (name, catalog)
        if number in (0, 3):  # each case, each catalogue
            assert by_job(model, catalog, asked, case, tmp_path / f"job-{number}") == wanted[name], (name, catalog)
    service = Service.start([Spec("toys", model, place)], Settings(queue=len(asked), timeout_s=60.0))
    try:
        for name, case in CASES.items():
            assert by_service(service, asked, case) == wanted[name], (name, place)
    finally:
        service.close()


@pytest.mark.parametrize("kept", ["folder", "database"])
def test_every_door_knows_a_customer(kept: str, tiny_models: Any, tmp_path: Path, request: Any) -> None:
    """By an id alone, and before a history: one whom the model knows, one whom the catalogue does, and nobody."""
    model, frame = tmp_path / "model", table(14)
    folder = tmp_path / "catalogue" if kept == "folder" else request.getfixturevalue("postgres")
    known = pl.DataFrame({"user_id": ["7", "7", "8"], "item_id": ["i3", "i5", "i3"]})
    weighed = with_counts(bundle.load(tiny_models.merged), CoPurchases.count(known), {"one": 0.5, "several": 0.5})
    bundle.save(weighed, model, {"kind": "target"})
    with build_catalogue(weighed, read_items(frame), folder) as built:
        built.add_purchases([Purchase("9", "i5"), Purchase("9", "i4"), Purchase("7", "i12")])
        recommender = Recommender(weighed, built)
        asked = [Question(history, K, user_id=user) for user in ("7", "9", "nobody") for history in ([], ["i1"])]
        wanted = [[(each.item_id, each.score) for each in recommender.ask(one).recommendations] for one in asked]
    assert len({tuple(each) for each in wanted}) == 6
    for number, one in enumerate(asked[:3]):
        words = [word for item in one.history for word in ("--history", str(item))]
        given = ["recommend", str(model), "--catalog", str(folder), "--user", str(one.user_id), *words, "-k", str(K)]
        found = json.loads(command(*given, "--json"))
        assert [each["item_id"] for each in found["recommendations"]] == [item for item, _ in wanted[number]]
    users, out = tmp_path / "users.parquet", tmp_path / "out.parquet"
    histories = pa.array([list(one.history) or None for one in asked], pa.list_(pa.string()))
    for columns in ({"history": histories}, {}):  # without any, who has none is answered alike
        pq.write_table(pa.table({"user_id": [one.user_id for one in asked], **columns}), users)
        given = ["recommend-batch", str(model), str(users), "--catalog", str(folder), "--out", str(out), "-k", str(K)]
        command(*given, "--overwrite")
        answers = pl.read_parquet(out)["item_ids"].to_list()
        for number, one in enumerate(asked):
            same = number if columns or not one.history else number - 1
            assert answers[number] == [item for item, _ in wanted[same]], (number, columns)
    service = Service.start([Spec("toys", model, folder)], Settings())
    try:
        transport = httpx.ASGITransport(app=create_app(service), client=("127.0.0.1", 1))

        async def ask() -> list[httpx.Response]:
            bodies = [
                {"user_id": one.user_id, "history": [{"item_id": each} for each in one.history], "k": K}
                for one in asked
            ]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return [await client.post("/v1/recommend", json=body) for body in bodies]

        found_there = [[item["item_id"] for item in answer.json()["items"]] for answer in asyncio.run(ask())]
        assert found_there == [[item for item, _ in each] for each in wanted]
    finally:
        service.close()
