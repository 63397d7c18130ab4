from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from xcrossrec.data import Domain, build_domain, read_domain, with_shared_users, write_domain
from xcrossrec.exceptions import DataError


def table(rows: list[tuple[str, str, int]], *, timed: bool = True) -> pl.DataFrame:
    users, items, times = zip(*rows, strict=True)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp" if timed else "position": times})


ITEMS = [{"item_id": "a", "title": "Garden saw", "brand": "Oak"}, {"item_id": "b", "title": "Rake", "brand": None}]
HERE = [("ann", "a", 50), ("ann", "b", 60), ("bob", "b", 50), ("cid", "a", 50)]


def garden(*, timed: bool = True) -> Domain:
    return build_domain("garden", ITEMS, {"train": table(HERE, timed=timed)})


def kitchen(*, timed: bool = True) -> Domain:
    items = [{"item_id": "p", "title": "Pan", "brand": "Fir"}, {"item_id": "q", "title": "Pot", "brand": "Elm"}]
    train = table([("ann", "q", 55), ("ann", "p", 40), ("eve", "p", 1)], timed=timed)
    test = table([("bob", "p", 10), ("ann", "q", 99)], timed=timed)
    return build_domain("kitchen", items, {"train": train, "test": test})


def camping() -> Domain:
    items = [{"item_id": "t", "title": "Tent"}]
    return build_domain("camping", items, {"train": table([("ann", "t", 45), ("bob", "t", 5)])})


def test_histories_are_joined_by_id_as_each_domain_reads_its_items() -> None:
    joined = with_shared_users(garden(), [kitchen(), camping()])
    assert joined.other_histories("train") == {"ann": ("Pan; Fir", "Tent", "Pot; Elm"), "bob": ("Tent", "Pan; Fir")}
    assert joined.manifest["shared_users"] == [
        {"domain": "kitchen", "fingerprint": kitchen().fingerprint, "users": 2, "interactions": 4},
        {"domain": "camping", "fingerprint": camping().fingerprint, "users": 2, "interactions": 2},
    ]
    assert garden().other_histories("train") == {}


def test_only_what_was_bought_before_the_target_counts() -> None:
    joined = with_shared_users(garden(), [kitchen()])
    assert joined.other_histories("train", first=True) == {"ann": ("Pan; Fir",), "bob": ("Pan; Fir",)}
    assert joined.other_histories("train")["ann"] == ("Pan; Fir", "Pot; Elm")


def test_without_times_the_order_within_a_domain_counts() -> None:
    joined = with_shared_users(garden(timed=False), [kitchen(timed=False)])
    assert joined.other_histories("train", first=True)["ann"] == ("Pan; Fir", "Pot; Elm", "Pot; Elm")
    assert joined.other is not None
    assert "timestamp" not in joined.other.columns


def test_they_are_kept_on_disk_and_count_for_the_fingerprint(tmp_path: Path) -> None:
    joined = with_shared_users(garden(), [kitchen(), camping()])
    assert joined.fingerprint != garden().fingerprint
    write_domain(joined, tmp_path / "garden")
    read = read_domain(tmp_path / "garden")
    assert read.other is not None
    assert read.other.equals(joined.other)
    assert read.fingerprint == joined.fingerprint == read.manifest["fingerprint"]
    assert read.with_text("{title}").other_histories("train") == joined.other_histories("train")
    (tmp_path / "garden" / "other.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks other.parquet: import the domain again"):
        read_domain(tmp_path / "garden")


def test_a_domain_that_shares_nobody_or_a_name_is_refused() -> None:
    alone = build_domain("office", ITEMS, {"train": table([("zoe", "a", 1)])})
    with pytest.raises(DataError, match="'garden' and 'office' share no user"):
        with_shared_users(garden(), [kitchen(), alone])
    with pytest.raises(DataError, match="two of the domains are called 'kitchen'"):
        with_shared_users(garden(), [kitchen(), kitchen()])
