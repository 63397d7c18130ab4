"""Ranks in little room: exactly as they were, by properties and by hand."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec import DataError
from xcrossrec_lab.suites import rank_file
from xcrossrec_lab.suites.rank_file import NOBODY_KNOWS, Ranks, read_ranks, write_ranks


def equal(found: Ranks, wanted: Ranks) -> bool:
    return all(np.array_equal(getattr(found, name), getattr(wanted, name)) for name in ("rank", "candidates", "seen"))


def alike(cells: int, users: int, candidates: int, seed: int = 0) -> dict[str, Ranks]:
    """Cells that agree about their users but for some noise."""
    rng = np.random.default_rng(seed)
    level = rng.integers(1, candidates + 1, users)
    found = {}
    for number in range(cells):
        rank = np.clip(level + rng.integers(-1, 2, users), 1, candidates)
        seen = rng.integers(0, 2, users).astype(np.uint8) if number % 2 else np.full(users, NOBODY_KNOWS, np.uint8)
        found[f"cell-{number}"] = Ranks(rank, np.full(users, candidates), seen)
    return found


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    table = {"uniform": alike(5, 40, 30), "full": alike(3, 40, 12_000, seed=1)}
    write_ranks(tmp_path / "ranks" / "toys.xz", table)
    back = read_ranks(tmp_path / "ranks" / "toys.xz")
    assert {kind: list(cells) for kind, cells in back.items()} == {kind: list(cells) for kind, cells in table.items()}
    assert all(equal(back[kind][name], ranks) for kind, cells in table.items() for name, ranks in cells.items())
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["toys.xz"]


@given(st.lists(st.integers(1, 65_535), min_size=1, max_size=60))
def test_every_value_is_coded_exactly(values: list[int]) -> None:
    array = np.array(values)
    np.testing.assert_array_equal(rank_file._decoded(*rank_file._coded(array)), array)


def test_leading_bits_by_hand() -> None:
    codes, planes = rank_file._coded(np.array([1, 15, 16, 31, 32, 35]))
    assert list(codes) == [1, 15, 64, 79, 80, 81], "16 codes an octave; 32 and 35 leave one bit each"
    assert list(planes) == [0b01000000]


def test_like_cells_take_less_room_than_unlike_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    unlike = {
        name: Ranks(rng.permutation(ranks.rank), ranks.candidates, ranks.seen)
        for name, ranks in alike(12, 4_000, 30).items()
    }
    for name, table in (("alike", alike(12, 4_000, 30)), ("unlike", unlike)):
        write_ranks(tmp_path / name, {"uniform": table})
    assert (tmp_path / "alike").stat().st_size < 0.75 * (tmp_path / "unlike").stat().st_size


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toys.xz"
    assert read_ranks(path) == {}
    write_ranks(path, {"uniform": alike(2, 10, 30)})
    whole = lzma.decompress(path.read_bytes())
    for content in (b"no xz", lzma.compress(whole[:-4]), lzma.compress(b"{}\n")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"toys\.xz cannot be read .*take it from the last commit"):
            read_ranks(path)


def test_ranks_too_large_for_the_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a rank of 65536"):
        write_ranks(tmp_path / "toys.xz", {"full": {"cell": Ranks(*(np.array([65_536]),) * 2, np.zeros(1, np.uint8))}})
