import gzip
from pathlib import Path

import pytest

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import Inputs
from xcrossrec.data.readers.tables import Plan, read_tables
from xcrossrec.exceptions import DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t5\t1.4e9\nu1\ti2\t4\t1400000001.0\n"
ITEM = 'item_id:token\tname:token_seq\tprice:float\ni1\tSaw "12"\t3\ni2\tDrill\t4\ni3\tNever sold\t5\n'


def files(folder: Path, inter: str = INTER, item: str = ITEM, packed: bool = False) -> tuple[Path, Path]:
    paths = folder / "x.inter", folder / "x.item"
    for path, text in zip(paths, (inter, item), strict=True):
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return paths


@pytest.mark.parametrize("packed", [False, True])
def test_atomic_files(tmp_path: Path, packed: bool) -> None:
    raw = read_tables(Plan("recbole"), Inputs(*files(tmp_path, packed=packed)))
    assert raw.interactions.rows() == [("u1", "i1", 1_400_000_000), ("u1", "i2", 1_400_000_001)]
    assert raw.items.columns == ["item_id", "title", "price"]
    assert raw.items.rows() == [("i1", 'Saw "12"', 3.0), ("i2", "Drill", 4.0), ("i3", "Never sold", 5.0)]


def test_columns_can_be_named_and_the_unit_is_found(tmp_path: Path) -> None:
    inter = "u:token\titem_id:token\tt:float\na\ti1\t1400000000000\n"
    raw = read_tables(
        Plan("recbole"), Inputs(*files(tmp_path, inter), columns=Columns(user="u", time="t", title="name"))
    )
    assert raw.interactions.rows() == [("a", "i1", 1_400_000_000)]


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        (
            INTER,
            "item_id:token\tbrand:token\n",
            "no column for the title, it has 'item_id', 'brand': name it",
        ),
        (INTER, "name:token\n", "no column for the item, it has 'name'"),
        ("user_id:token\titem_id:token\nu\ti\n", ITEM, "no column for time or position, it has 'user_id', 'item_id'"),
        (
            INTER.replace("1.4e9", "1400000000000"),
            ITEM,
            "row 2: .* is not in ms since 1970: the first time is",
        ),
        (INTER.replace("\t5\t", "\t"), ITEM, r"1 of 2 rows of interactions lack a time .* first .*x\.inter, row 1"),
        (INTER.replace("1.4e9", "noon"), ITEM, "row 1: timestamp 'noon' is not an ISO 8601 time"),
    ],
)
def test_bad_atomic_files_are_refused(tmp_path: Path, inter: str, item: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tables(Plan("recbole"), Inputs(*files(tmp_path, inter, item)))
