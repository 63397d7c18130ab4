"""Damaged purchases of a catalogue on disk: named, and left out by the repair."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from damaged_catalogue import LOG, flip, is_whole, mended, opened, run
from xcrossrec.catalogue import Forgotten, Purchase, examine
from xcrossrec.catalogue.rows import DATABASE
from xcrossrec.copurchase import user_hash
from xcrossrec.exceptions import BundleError

ROWS, INDEX = 0x0D, 0x0A  # kinds of a database's pages, their first byte
BOUGHT = [("anna", "i1", 5), ("anna", "gone", None), ("bo", "i1", None)]


@pytest.fixture
def bought(closed: Path) -> Path:
    """The catalogue with three purchases, at version 4, and a customer who was forgotten."""
    with opened(closed) as store:
        store.add_purchases([Purchase(*each) for each in BOUGHT])
        store.forget("dan")
    return closed


@pytest.mark.parametrize(
    ("change", "said", "kept"),
    [
        ("UPDATE purchases SET item_id = 'i2' WHERE number = 2", r"purchase 2 (('anna', 'i2')): one of its", (0, 2)),
        ("UPDATE purchases SET timestamp = 6 WHERE number = 1", r"purchase 1 (('anna', 'i1')): one of its", (1, 2)),
        ("UPDATE purchases SET user_id = x'ff' WHERE number = 3", r"purchase 3 ((b'\xff', 'i1')): one of", (0, 1)),
        (
            "UPDATE purchases SET user_id = CAST(x'ff' || number AS TEXT) WHERE number <> 2",
            "purchase 3 (('\ufffd3', 'i1')): one of its values is damaged",
            (1,),
        ),
        ("UPDATE purchases SET crc = crc + 1 WHERE number = 1", "rows of purchases are not those", (1, 2)),
        ("DELETE FROM purchases WHERE number = 3", "the rows of purchases are not those that were written", (0, 1)),
        ("INSERT INTO purchases VALUES (9, 'eve', 'i3', NULL, 0)", "purchase 9 (('eve', 'i3')): one of", (0, 1, 2)),
    ],
)
def test_damaged_purchases_are_named_and_left_out(bought: Path, change: str, said: str, kept: Sequence[int]) -> None:
    run(change)(bought / DATABASE)
    with pytest.raises(
        BundleError, match=r"catalogue\.sqlite is damaged \((purchase \d|the rows of purchases|Could not decode)"
    ):
        opened(bought)
    sentences, made = mended(bought)
    with made:
        assert is_whole(made)
        assert made.purchases().rows() == [BOUGHT[number] for number in kept]
        assert (made.version, list(made.purchases_after(0))) == (5, [Forgotten(user_hash("dan"))])
    assert any(said in line for line in sentences)
    assert examine(bought).sentences() == []


@pytest.mark.parametrize("index", [False, True])
def test_a_damaged_page_of_purchases_costs_those_on_it(closed: Path, index: bool) -> None:
    many = [("anna", f"i{number:04}", number) for number in range(1000)]
    with opened(closed) as store:
        store.add_purchases([Purchase(*each) for each in many])
    content = bytearray((closed / DATABASE).read_bytes())
    for kind in (ROWS, INDEX) if index else (ROWS,):
        pages = (page for page in range(0, len(content), 4096) if content[page] == kind)
        at = next(page for page in pages if b"annai0500" in content[page : page + 4096])
        content[at + 3 : at + 5] = b"\xff\xff"  # so many rows are on no page
    (closed / DATABASE).write_bytes(content)
    sentences, made = mended(closed)
    with made:
        kept = made.purchases().rows()
    total = "an unknown number of" if index else "1000"
    assert f"of {total} purchases {len(kept)} can be read: the others are lost" in sentences
    assert 800 < len(kept) < 1000
    first = next(place for place, (row, each) in enumerate(zip(kept, many, strict=False)) if row != each)
    assert first > 100
    assert kept == many[:first] + many[first - len(kept) :]


def test_purchases_that_the_log_lost_are_noticed(bought: Path, tmp_path: Path) -> None:
    with opened(bought) as store:
        store.add_purchases([Purchase("cem", "i3")])
        shutil.copytree(bought, tmp_path / "crashed")
    flip(tmp_path / "crashed" / LOG, 8 * 60)
    with pytest.raises(BundleError, match="was taken back to version 4, 1 writes lost: version 5 had been"):
        opened(tmp_path / "crashed")
    said, made = mended(tmp_path / "crashed")
    with made:
        assert (made.purchases().rows(), said) == (BOUGHT, ["taken back to version 4, 1 writes lost"])
