import gzip
import json
from pathlib import Path

import pytest

from xcrossrec.data.readers.amazon import AMAZON
from xcrossrec.data.readers.frames import Inputs
from xcrossrec.data.readers.tables import read_tables
from xcrossrec.exceptions import DataError

USERS, ITEMS = ("A1YJEY40YUW4SE", "A3AF8FFZAZYNE5"), ("B000000001", "0123456789")
SECONDS = 1_400_000_000


def review(release: str, user: str, item: str, time_s: int) -> dict[str, object]:
    if release == "amazon2023":
        other = {"asin": "a colour of " + item, "rating": 5.0, "images": [{"u": "x"}]}
        return {"user_id": user, "parent_asin": item, "timestamp": time_s * 1000 + 7, **other}
    return {"reviewerID": user, "asin": item, "unixReviewTime": time_s, "overall": 5.0, "helpful": [0, 1]}


def store(path: Path, text: str, packed: bool) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def metadata(release: str, *titles: tuple[str, str]) -> str:
    key = "parent_asin" if release == "amazon2023" else "asin"
    path, text = ["A", "B", "C"], ["One", "Two"]
    more = {
        "amazon2014": {"brand": "Brand", "categories": [path], "description": "One Two", "price": 1.5},
        "amazon2018": {"brand": "Brand", "category": path, "description": text, "price": "$1.50"},
        "amazon2023": {"store": "Brand", "categories": path, "main_category": "M", "description": text, "price": "1.5"},
    }[release]
    rows = [{key: item, "title": title, **more, "also": ["x"]} for item, title in titles]
    return "\n".join(repr(row) if release == "amazon2014" else json.dumps(row) for row in rows)


EXPECTED = [
    (USERS[0], ITEMS[0], SECONDS),
    (USERS[1], ITEMS[1], SECONDS + 1),
    (USERS[0], ITEMS[1], SECONDS + 2),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("release", ["amazon2014", "amazon2018", "amazon2023"])
def test_reviews_and_metadata_of_every_release(tmp_path: Path, release: str, packed: bool) -> None:
    lines = "\n".join(json.dumps(review(release, *row)) for row in EXPECTED)
    titles = metadata(release, (ITEMS[1], "Dad's hat"), ("B00000NONE", "Never reviewed"), (ITEMS[0], "Nut & bolt"))
    reviews = store(tmp_path / "reviews", lines, packed)
    raw = read_tables(AMAZON[release], Inputs(reviews, store(tmp_path / "meta", titles, packed)))
    assert raw.interactions.select("user_id", "item_id", "timestamp").rows() == EXPECTED
    assert ("subsecond" in raw.interactions.columns) is (release == "amazon2023")
    more = ("Brand", "B, C", "One Two", 1.5)
    assert raw.items.rows() == [(ITEMS[1], "Dad's hat", *more), (ITEMS[0], "Nut & bolt", *more)]
    assert raw.sources == (reviews, tmp_path / "meta")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("release", "head", "order", "factor"),
    [
        ("amazon2014", "", (0, 1, 3, 2), 1),
        ("amazon2018", "", (1, 0, 3, 2), 1),
        ("amazon2023", "user_id,parent_asin,rating,timestamp\n", (0, 1, 3, 2), 1000),
    ],
)
def test_ratings_of_every_release(
    tmp_path: Path, release: str, head: str, order: tuple[int, ...], factor: int, packed: bool
) -> None:
    rows = [(user, item, str(time * factor), "5.0") for user, item, time in EXPECTED]
    text = head + "\n".join(",".join(row[place] for place in order) for row in rows)
    ratings = store(tmp_path / "ratings", text, packed)
    titles = store(tmp_path / "meta", metadata(release, (ITEMS[0], "x")), packed)
    raw = read_tables(AMAZON[release], Inputs(ratings, titles))
    assert raw.interactions.rows() == EXPECTED


def test_2014_metadata_mix_literals_and_json_and_lack_titles(tmp_path: Path) -> None:
    lines = f"{{'asin': '{ITEMS[0]}'}}\n" + json.dumps({"asin": ITEMS[1], "title": "T"})
    reviews = store(tmp_path / "r", "\n".join(json.dumps(review("amazon2014", *row)) for row in EXPECTED), False)
    raw = read_tables(AMAZON["amazon2014"], Inputs(reviews, store(tmp_path / "m", lines, False)))
    assert raw.items.rows() == [(ITEMS[0], ""), (ITEMS[1], "T")]


@pytest.mark.parametrize(
    "junk", ["var aPageStart = (new Date()).getTime();\n<span>", 'Industrial & Scientific" />', '<a href="x">Saw']
)
def test_scraped_markup_counts_as_no_title(tmp_path: Path, junk: str) -> None:
    reviews = store(tmp_path / "r", "\n".join(json.dumps(review("amazon2018", *row)) for row in EXPECTED), False)
    meta = store(tmp_path / "m", metadata("amazon2018", (ITEMS[0], junk), (ITEMS[1], "5 < 6 & 7 &gt; 6")), False)
    assert read_tables(AMAZON["amazon2018"], Inputs(reviews, meta)).items["title"].to_list() == ["", "5 < 6 & 7 &gt; 6"]


@pytest.mark.parametrize(
    ("release", "text", "message"),
    [
        ("amazon2014", f"u,i,5,{SECONDS}000", "not in s .* 2023 release's, read it with --format amazon2023"),
        ("amazon2018", f"i,u,5,{SECONDS}000", "not in s .* 2023 release's, read it with --format amazon2023"),
        (
            "amazon2023",
            f"user_id,parent_asin,rating,timestamp\nu,i,5,{SECONDS}",
            "not in ms .* seconds are the 2014 and 2018 releases'",
        ),
        (
            "amazon2014",
            f"{ITEMS[0]},{USERS[0]},5,{SECONDS}",
            f"row 1: '{USERS[0]}' looks like a user and '{ITEMS[0]}' like an item",
        ),
        ("amazon2018", f"{USERS[0]},{ITEMS[0]},5,{SECONDS}", "those of 2018 with the item"),
        ("amazon2014", "user_id,item_id,rating,timestamp\n", "has a header .* read it with --format csv"),
        ("amazon2018", "i,u,5\n", r"1 of 1 rows of interactions lack a time \(1\)"),
        ("amazon2023", "u,i,5,1\n", "has no column 'user_id', it has 'u', 'i', '5', '1'"),
        ("amazon2023", '{"user_id": "u", "asin": "i"}', "has no column 'timestamp', it has 'user_id', 'asin'"),
        ("amazon2018", '{"reviewerID": "u", "asin": "i"}', "has no column 'unixReviewTime'"),
        ("amazon2018", "{'reviewerID': 'u'}", "line 1: .* is not a JSON object or an array of them: correct"),
        ("amazon2014", "{'reviewerID': 'u'", "line 1: .* is not a JSON object or a Python dict"),
        ("amazon2018", "", "is empty: give a file with rows"),
    ],
)
def test_files_of_another_release_are_refused(tmp_path: Path, release: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tables(AMAZON[release], Inputs(store(tmp_path / "r", text, False), store(tmp_path / "m", "", False)))


def test_truncated_metadata_are_refused(tmp_path: Path) -> None:
    reviews = store(tmp_path / "r", "\n".join(json.dumps(review("amazon2018", *row)) for row in EXPECTED), True)
    meta = store(tmp_path / "m", metadata("amazon2018", (ITEMS[0], "T")), True)
    meta.write_bytes(meta.read_bytes()[:-9])
    with pytest.raises(DataError, match="m is a truncated gzip file"):
        read_tables(AMAZON["amazon2018"], Inputs(reviews, meta))


def test_python_literals_run_no_code(tmp_path: Path) -> None:
    reviews = store(tmp_path / "r", "\n".join(json.dumps(review("amazon2014", *row)) for row in EXPECTED), False)
    touch = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    meta = store(tmp_path / "m", f"{{'asin': 'a', 'title': 'T'}}\n{{'asin': {touch}, 'title': 'T'}}\n", False)
    with pytest.raises(DataError, match=r"m, line 2: .* is not a JSON object or a Python dict: correct or remove"):
        read_tables(AMAZON["amazon2014"], Inputs(reviews, meta))
    assert not (tmp_path / "ran").exists()


def test_corrupt_reviews_are_refused(tmp_path: Path) -> None:
    reviews = store(tmp_path / "r", "\n".join(json.dumps(review("amazon2018", *row)) for row in EXPECTED * 99), True)
    whole = bytearray(reviews.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    reviews.write_bytes(whole)
    items = store(tmp_path / "m", metadata("amazon2018", (ITEMS[0], "T")), False)
    with pytest.raises(DataError, match=r"r is a corrupt gzip file .*: fetch or compress it again"):
        read_tables(AMAZON["amazon2018"], Inputs(reviews, items))
