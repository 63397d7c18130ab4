from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec.data import Domain, build_domain, candidates
from xcrossrec.data.candidates import Candidates, candidates_file, candidates_for, draw_candidates
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import Negatives


def sixty_items(users: int = 12, *, name: str = "d") -> Domain:
    """Item ``i0`` is bought most, ``i59`` never in train; every user has five items."""
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(60)], "title": [f"Item {n}" for n in range(60)]})
    rng = np.random.default_rng(1)
    weights = np.arange(59, 0, -1) / np.arange(59, 0, -1).sum()
    rows = [
        (f"u{user}", f"i{item}", position)
        for user in range(users)
        for position, item in enumerate(rng.choice(59, size=5, replace=False, p=weights))
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    everything = pl.DataFrame({"user_id": "all", "item_id": [f"i{n}" for n in range(59)], "position": range(59)})
    return build_domain(name, items, {"train": pl.concat([frame, everything]), "validation": frame})


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
@given(seed=st.integers(0, 1000))
def test_candidates_are_distinct_and_outside_the_sequence(negatives: Negatives, seed: int) -> None:
    domain = sixty_items()
    drawn = draw_candidates(domain, "validation", negatives, seed=seed)
    sequences = domain.sequences("validation")
    assert drawn.rows.shape == (12, 30)
    assert drawn.user_ids == sequences.user_ids
    for row, sequence in zip(drawn.rows.tolist(), sequences.rows, strict=True):
        assert row[0] == sequence[-1]
        assert len(set(row)) == 30
        assert not set(row[1:]) & set(sequence)
        assert all(0 <= item < 60 for item in row)


def test_candidates_follow_the_seed_the_split_and_the_way() -> None:
    domain = sixty_items()
    first = draw_candidates(domain, "validation", "uniform", seed=0)
    assert np.array_equal(first.rows, draw_candidates(domain, "validation", "uniform", seed=0).rows)
    assert not np.array_equal(first.rows, draw_candidates(domain, "validation", "uniform", seed=1).rows)
    assert not np.array_equal(first.rows, draw_candidates(domain, "validation", "popularity", seed=0).rows)


def test_candidates_do_not_depend_on_the_other_users() -> None:
    domain = sixty_items()
    frame = domain.interactions["validation"]
    fewer = Domain("d", domain.items, {**domain.interactions, "validation": frame.filter(pl.col("user_id") > "u3")})
    everybody = draw_candidates(domain, "validation", "uniform", seed=0)
    some = draw_candidates(fewer, "validation", "uniform", seed=0)
    lists = dict(zip(everybody.user_ids, everybody.rows.tolist(), strict=True))
    assert len(some) < len(everybody)
    assert some.rows.tolist() == [lists[user] for user in some.user_ids]


def test_popularity_candidates_follow_the_train_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first negative drawn is distributed as the weights left after the user's own items."""
    items = pl.DataFrame({"item_id": ["a", "b", "c", "d", "e", "never"], "title": list("ABCDEF")})
    pairs = [("t", item) for item in "aaaaaabbbc"]
    train = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    users = [(f"v{n}", item) for n in range(4000) for item in "de"]
    validation = pl.DataFrame(users, schema=["user_id", "item_id"], orient="row")
    domain = build_domain("d", items, {"train": train, "validation": validation})
    monkeypatch.setattr(candidates, "NEGATIVES_EACH", 2)
    drawn = draw_candidates(domain, "validation", "popularity", seed=0).rows
    shares = np.bincount(drawn[:, 1], minlength=6) / 4000
    assert shares == pytest.approx([0.6, 0.3, 0.1, 0, 0, 0], abs=0.03)
    # without replacement: P(second = c) = .6 * .1/.4 + .3 * .1/.7
    second = np.bincount(drawn[:, 2], minlength=6) / 4000
    assert second[2] == pytest.approx(0.6 * 0.25 + 0.3 / 7, abs=0.03)


def test_uniform_candidates_cover_the_catalogue_evenly() -> None:
    drawn = draw_candidates(sixty_items(600), "validation", "uniform", seed=0).rows[:, 1:]
    counts = np.bincount(drawn.ravel(), minlength=60)
    assert counts[59] == pytest.approx(600 * 29 / 55, rel=0.15)  # never bought, so never excluded


def test_too_small_a_catalogue_is_refused(tiny_domain: Domain) -> None:
    message = "29 uniform negatives cannot be drawn for any user of domain 'tiny': at most 3 of 6 items qualify"
    with pytest.raises(DataError, match=message):
        draw_candidates(tiny_domain, "validation", "uniform", seed=0)


def test_popularity_counts_only_items_of_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "NEGATIVES_EACH", 55)
    with pytest.raises(DataError, match="55 popularity negatives cannot be drawn"):
        draw_candidates(sixty_items(), "validation", "popularity", seed=0)
    assert len(draw_candidates(sixty_items(), "validation", "uniform", seed=0)) == 12
    monkeypatch.setattr(candidates, "NEGATIVES_EACH", 54)
    assert 59 not in draw_candidates(sixty_items(), "validation", "popularity", seed=0).rows


@pytest.mark.parametrize(
    ("negatives", "seed", "message"),
    [
        ("full", 0, "no candidates are drawn for negatives 'full'"),
        ("uniform", -1, "the seed of the candidates is -1"),
    ],
)
def test_candidate_settings_outside_the_range(negatives: Negatives, seed: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_candidates(sixty_items(), "validation", negatives, seed=seed)


def same(one: Candidates, other: Candidates) -> bool:
    return one.user_ids == other.user_ids and np.array_equal(one.rows, other.rows)


def test_candidate_file_is_written_once_and_read_again(tmp_path: Path) -> None:
    domain = sixty_items()
    first = candidates_for(domain, "validation", "popularity", seed=4, directory=tmp_path)
    file = tmp_path / "candidates" / "validation-popularity-seed4.parquet"
    assert file == candidates_file(tmp_path, "validation", "popularity", seed=4)
    before = file.stat().st_mtime_ns
    assert same(candidates_for(domain, "validation", "popularity", seed=4, directory=tmp_path), first)
    assert same(candidates_for(domain, "validation", "popularity", seed=4, directory=None), first)
    assert file.stat().st_mtime_ns == before


def test_candidate_file_of_other_data_is_refused(tmp_path: Path) -> None:
    candidates_for(sixty_items(), "validation", "uniform", seed=0, directory=tmp_path)
    with pytest.raises(DataError, match=r"validation-uniform-seed0.parquet has fingerprint .* expected"):
        candidates_for(sixty_items(13), "validation", "uniform", seed=0, directory=tmp_path)


def test_candidate_file_of_another_seed_is_refused(tmp_path: Path) -> None:
    domain = sixty_items()
    candidates_for(domain, "validation", "uniform", seed=0, directory=tmp_path)
    file = candidates_file(tmp_path, "validation", "uniform", seed=0)
    file.rename(candidates_file(tmp_path, "validation", "uniform", seed=1))
    with pytest.raises(DataError, match="has seed 0, expected 1"):
        candidates_for(domain, "validation", "uniform", seed=1, directory=tmp_path)


def test_candidate_file_with_other_users_is_refused(tmp_path: Path) -> None:
    domain = sixty_items()
    candidates_for(domain, "validation", "uniform", seed=0, directory=tmp_path)
    file = candidates_file(tmp_path, "validation", "uniform", seed=0)
    pl.read_parquet(file).head(3).write_parquet(file)
    with pytest.raises(DataError, match="has other users or list lengths"):
        candidates_for(domain, "validation", "uniform", seed=0, directory=tmp_path)


def test_candidate_file_with_another_list_or_column_is_refused(tmp_path: Path) -> None:
    domain = sixty_items()
    candidates_for(domain, "validation", "uniform", seed=0, directory=tmp_path)
    file = candidates_file(tmp_path, "validation", "uniform", seed=0)
    frame = pl.read_parquet(file)
    frame.with_columns(pl.col("rows").list.reverse()).write_parquet(file)
    with pytest.raises(DataError, match=r"is damaged .its checksum differs.: delete it to draw the candidates again"):
        candidates_for(domain, "validation", "uniform", seed=0, directory=tmp_path)
    frame.rename({"user_id": "user_ie"}).write_parquet(file)
    with pytest.raises(DataError, match="has other users or list lengths"):
        candidates_for(domain, "validation", "uniform", seed=0, directory=tmp_path)


def test_damaged_candidate_file_is_refused(tmp_path: Path) -> None:
    file = candidates_file(tmp_path, "validation", "uniform", seed=0)
    file.parent.mkdir()
    file.write_bytes(b"PAR1 truncated")
    with pytest.raises(DataError, match=r"not a readable Parquet file .* delete it to draw"):
        candidates_for(sixty_items(), "validation", "uniform", seed=0, directory=tmp_path)
