from pathlib import Path
from typing import Any

import pytest

from xcrossrec.data.domain import Domain
from xcrossrec.data.lint import lint
from xcrossrec.data.readers import Inputs, Recipe, import_domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import Split, UnknownItems

Rows = list[tuple[Any, ...]]
SEQUENCES = {"u": "abcd", "v": "bcda"}


def domain_of(
    folder: Path,
    head: str,
    parts: dict[Split, Rows],
    form: str | None = None,
    suffix: str = ".csv",
    unknown_items: UnknownItems = "error",
) -> Domain:
    separator = "\t" if suffix == ".inter" else ","
    paths = {split: folder / f"x.{split}{suffix}" for split in parts}
    for split, rows in parts.items():
        lines = [head, *(separator.join(map(str, row)) for row in rows)]
        paths[split].write_text("\n".join(lines) + "\n")
    items = folder / ("i.item" if suffix == ".inter" else "i.csv")
    kind = "item_id:token\tname:token_seq" if suffix == ".inter" else "parent_asin,title"
    items.write_text("\n".join([kind, *(f"{item}{separator}T{item}" for item in "abcd")]))
    return import_domain("d", form, Inputs(items=items, splits=paths), Recipe(unknown_items=unknown_items))


def sequences(domain: Domain) -> dict[str, dict[str, str]]:
    found = {}
    for split in domain.splits:
        frame = domain.interactions[split]
        found[split] = {
            user: "".join(frame.filter(frame["user_id"] == user)["item_id"]) for user in frame["user_id"].unique()
        }
    return found


EXPECTED = {
    "train": {user: items[:2] for user, items in SEQUENCES.items()},
    "validation": {user: items[:3] for user, items in SEQUENCES.items()},
    "test": SEQUENCES,
}


def rows_of(split: Split, *, history: bool) -> Rows:
    places = {"train": (0, 1), "validation": (2,), "test": (3,)}[split]
    rows: Rows = []
    for number, (user, items) in enumerate(SEQUENCES.items()):
        for place in places:
            stamp = 1_588_687_728_923 + 1000 * place + number
            rows.append((user, items[place], 5.0, stamp, *([" ".join(items[:place])] if history else [])))
    return rows


SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.mark.parametrize("form", [None, "amazon2023"])
@pytest.mark.parametrize("history", [True, False])
def test_splits_of_amazon_2023_have_histories(tmp_path: Path, form: str | None, history: bool) -> None:
    head = "user_id,parent_asin,rating,timestamp" + (",history" if history else "")
    domain = domain_of(tmp_path, head, {split: rows_of(split, history=history) for split in SPLITS}, form)
    assert sequences(domain) == EXPECTED
    assert domain.manifest["filters"]["split"] == "leave_last_out"
    assert not lint([domain]).of("error")


@pytest.mark.parametrize("timed", [True, False])
def test_splits_of_recbole_have_histories(tmp_path: Path, timed: bool) -> None:
    head = "user_id:token\titem_id:token\trating:float\t" + ("timestamp:float" if timed else "position:float")
    parts = {split: [row if timed else (*row[:3], 0) for row in rows_of(split, history=False)] for split in SPLITS}
    if not timed:
        parts["train"] = [(*row[:3], place % 2) for place, row in enumerate(parts["train"])]
    domain = domain_of(tmp_path, head, parts, suffix=".inter")
    assert sequences(domain) == EXPECTED
    assert domain.manifest["filters"]["rows"] == {"read": 8, "histories": 10, "kept": 18}


def test_sequences_of_recbole_have_their_longest_history(tmp_path: Path) -> None:
    head = "user_id:token\titem_id_list:token_seq\titem_id:token"
    sequence = "abcd"
    parts: dict[Split, Rows] = {
        "train": [("u", "a", "b"), ("u", "a b", "c"), ("v", "d", "a")],
        "validation": [("u", "a b c", "d")],
        "test": [("w", "c d", sequence[0])],
    }
    found = sequences(domain_of(tmp_path, head, parts, suffix=".inter"))
    assert found == {"train": {"u": "abc", "v": "da"}, "validation": {"u": "abcd"}, "test": {"w": "cda"}}


def test_an_unknown_item_counts_once_though_it_is_in_every_part(tmp_path: Path) -> None:
    parts = {split: rows_of(split, history=False) for split in SPLITS}
    parts["train"] = [(user, "z" if item == "a" else item, *rest) for user, item, *rest in parts["train"]]
    with pytest.raises(DataError, match=r"has 1 interactions with 1 items that its catalogue lacks \('z'\)"):
        domain_of(tmp_path, "user_id,parent_asin,rating,timestamp", parts)


def test_whose_last_item_is_unknown_has_no_target(tmp_path: Path) -> None:
    parts = {split: rows_of(split, history=False) for split in SPLITS}
    parts["test"][0] = ("u", "z", *parts["test"][0][2:])
    domain = domain_of(tmp_path, "user_id,parent_asin,rating,timestamp", parts, unknown_items="drop")
    assert sequences(domain) == {**EXPECTED, "test": {"v": SEQUENCES["v"]}}
    rows = domain.manifest["filters"]["rows"]
    assert (rows["unknown_items"], rows["without_target"], rows["kept"]) == (1, 3, 14)


def test_whole_histories_and_other_users_stay_as_they_are(tmp_path: Path) -> None:
    head = "user_id,parent_asin,position"
    train: Rows = [(user, item, place) for user in "uvw" for place, item in enumerate("ab")]
    whole: Rows = [(user, item, place) for user in "uv" for place, item in enumerate("abc")]
    complete = domain_of(tmp_path, head, {"train": train, "validation": whole})
    assert sequences(complete)["validation"] == {"u": "abc", "v": "abc"}
    assert complete.manifest["filters"]["split"] == "given"
    strangers: Rows = [(user, item, place) for user in "uxyz" for place, item in enumerate("cd")]
    others = domain_of(tmp_path, head, {"train": train, "validation": strangers})
    assert sequences(others)["validation"] == dict.fromkeys("uxyz", "cd")
    assert "shared_users" in {found.code for found in lint([others]).of("error")}


def test_a_part_of_mostly_new_users_stays_as_it_is_and_who_lacks_a_history_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early: Rows = [("u", "a", 5.0, 1_588_687_728_000), ("u", "b", 5.0, 1_588_687_729_000)]
    late: Rows = [(user, item, 5.0, 1_588_687_730_000 + n) for user in "uvw" for n, item in enumerate("cd")]
    domain = domain_of(tmp_path, "user_id,parent_asin,rating,timestamp", {"train": early, "test": late})
    assert sequences(domain)["test"] == {"u": "cd", "v": "cd", "w": "cd"}
    assert "test: 1 of 3 users bought in the parts before, too, but get no history from there" in caplog.text


def test_splits_with_different_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,name\na,A\n")
    (tmp_path / "train.csv").write_text("user,sku,date\nu,a,2026-01-01\n")
    (tmp_path / "test.csv").write_text("user,sku,position\nu,a,0\n")
    splits: dict[Split, Path] = {"train": tmp_path / "train.csv", "test": tmp_path / "test.csv"}
    with pytest.raises(DataError, match="have different columns: give all a position, or all a time"):
        import_domain("d", None, Inputs(items=tmp_path / "items.csv", splits=splits))
