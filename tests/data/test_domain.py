from __future__ import annotations

import hashlib
import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec.data import Domain, Sequences
from xcrossrec.data import domain as domain_module
from xcrossrec.exceptions import DataError


def some_sequences(count: int) -> Sequences:
    return Sequences(tuple(f"u{n}" for n in range(count)), tuple((n, n + 1, n + 2) for n in range(count)))


def test_sequences_are_the_item_rows_oldest_first(tiny_domain: Domain) -> None:
    sequences = tiny_domain.sequences("train")
    assert sequences.user_ids == ("u0", "u1", "u2")
    assert sequences.rows == ((0, 1, 2), (3, 4, 5), (2, 0, 1, 4))
    histories, targets = sequences.histories_and_targets()
    assert histories == [(0, 1), (3, 4), (2, 0, 1)]
    assert targets.tolist() == [2, 5, 4]


def test_sequences_below_the_minimum_are_left_out(tiny_domain: Domain) -> None:
    assert tiny_domain.sequences("test").user_ids == ("u5", "u6")
    assert tiny_domain.sequences("test", minimum=3).user_ids == ("u5",)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 5))
def test_take_is_nested_by_budget(small: int, more: int, seed: int) -> None:
    sequences = some_sequences(60)
    larger = sequences.take(small + more, seed)
    assert sequences.take(small, seed).user_ids == larger.user_ids[:small]
    assert len(set(larger.user_ids)) == small + more
    assert all(row[0] == int(user[1:]) for user, row in zip(larger.user_ids, larger.rows, strict=True))


def test_take_without_a_budget_keeps_everybody() -> None:
    sequences = some_sequences(3)
    assert sequences.take(None, 0) is sequences


@pytest.mark.parametrize("budget", [0, -1, 4])
def test_take_refuses_a_budget_outside_the_users(budget: int) -> None:
    with pytest.raises(DataError, match=f"budget of {budget} users cannot be taken from 3 users"):
        some_sequences(3).take(budget, 0)


@given(st.integers(0, 19), st.integers(0, 5))
def test_split_off_divides_the_users(count: int, seed: int) -> None:
    sequences = some_sequences(20)
    rest, aside = sequences.split_off(count, seed)
    assert (len(rest), len(aside)) == (20 - count, count)
    assert set(rest.user_ids) | set(aside.user_ids) == set(sequences.user_ids)


@pytest.mark.parametrize("count", [-1, 3])
def test_split_off_refuses_to_leave_nobody(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} users cannot be set aside from 3 users"):
        some_sequences(3).split_off(count, 0)


def test_absent_split_names_those_present(tiny_domain: Domain) -> None:
    domain = Domain("d", tiny_domain.items, {"train": tiny_domain.interactions["train"]})
    with pytest.raises(DataError, match="'d' has no 'test' split, only train"):
        domain.sequences("test")
    with pytest.raises(DataError, match="only none"):
        Domain("d", tiny_domain.items, {}).train_counts()


def test_train_counts_agree_with_a_loop(tiny_domain: Domain) -> None:
    expected = [0] * 6
    for rows in tiny_domain.sequences("train", minimum=1).rows:
        for row in rows:
            expected[row] += 1
    counts = tiny_domain.train_counts()
    assert counts.tolist() == expected
    assert counts.dtype == np.int64


def test_fingerprint_follows_the_content_alone(tiny_domain: Domain) -> None:
    same = Domain("other name", tiny_domain.items.clone(), dict(tiny_domain.interactions), {"seed": 3})
    assert same.fingerprint == tiny_domain.fingerprint
    assert len(same.fingerprint) == 64


def slow_fingerprint(domain: Domain) -> str:
    """The definition, value by value."""
    digest = hashlib.sha256()
    for name, frame in {"items": domain.items, **domain.interactions}.items():
        digest.update(f"{name}\0{frame.height}\0".encode())
        for column in frame.columns:
            values = frame[column].to_list()
            nulls = "".join("1" if value is None else "0" for value in values)
            padded = nulls + "0" * (-len(nulls) % 8)
            digest.update(f"{column}\0".encode() + bytes(int(padded[n : n + 8], 2) for n in range(0, len(padded), 8)))
            texts = [b"" if v is None else v.encode() if isinstance(v, str) else struct.pack("<q", v) for v in values]
            if frame.schema[column] == pl.String:
                digest.update(b"".join(struct.pack("<I", len(text)) for text in texts))
            digest.update(b"".join(texts))
    return digest.hexdigest()


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_fingerprint_agrees_with_its_definition(
    tiny_domain: Domain, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(domain_module, "_CHUNK_ROWS", rows)
    titles = pl.Series("title", ["é", None, "", "日本", "a", "b"])
    items = tiny_domain.items.with_columns(titles)
    domain = Domain("tiny", items, tiny_domain.interactions)
    assert domain.fingerprint == slow_fingerprint(domain)
    assert domain.with_manifest({"a": 1}).fingerprint == domain.fingerprint
    assert domain.with_manifest({"a": 1}).manifest == {"a": 1}


def test_users_are_counted_whatever_the_order(tiny_domain: Domain) -> None:
    shuffled = tiny_domain.interactions["train"].sample(fraction=1, shuffle=True, seed=1)
    domain = Domain("tiny", tiny_domain.items, {"train": shuffled})
    assert domain.count_users("train") == tiny_domain.count_users("train") == 3


def test_fingerprint_changes_with_any_part(tiny_domain: Domain) -> None:
    train = tiny_domain.interactions["train"]
    others = [
        Domain("tiny", tiny_domain.items.reverse(), tiny_domain.interactions),
        Domain("tiny", tiny_domain.items, {"train": train}),
        Domain("tiny", tiny_domain.items, {**tiny_domain.interactions, "train": train.head(9)}),
        Domain("tiny", tiny_domain.items, {**tiny_domain.interactions, "train": train.with_columns(timestamp=7)}),
        # moving a character from one value to the next must not go unseen
        Domain(
            "tiny",
            tiny_domain.items.with_columns(title=pl.Series(["R", "ed"] + [""] * 4)),
            tiny_domain.interactions,
        ),
        Domain(
            "tiny",
            tiny_domain.items.with_columns(title=pl.Series(["Re", "d"] + [""] * 4)),
            tiny_domain.interactions,
        ),
    ]
    prints = {domain.fingerprint for domain in (tiny_domain, *others)}
    assert len(prints) == len(others) + 1


def test_titles_stand_by_row(tiny_domain: Domain) -> None:
    assert tiny_domain.titles[3] == "Cordless drill 18 V"


def test_domain_refuses_a_missing_column(tiny_domain: Domain) -> None:
    with pytest.raises(DataError, match="items lacks the column 'title'; it has item_id"):
        Domain("d", tiny_domain.items.select("item_id"), {})


def test_domain_refuses_a_column_of_another_type(tiny_domain: Domain) -> None:
    train = tiny_domain.interactions["train"].with_columns(pl.col("position").cast(pl.Float64))
    with pytest.raises(DataError, match=r"train.position is of type Float64, expected Int64"):
        Domain("d", tiny_domain.items, {"train": train})


def test_sequences_are_shown_by_their_numbers(tiny_domain: Domain) -> None:
    assert repr(tiny_domain.sequences("train")) == "Sequences(3 users, 10 items)"
