"""Reviews and metadata in the form of the Amazon 2018 release, generated: gzip, one JSON object a line.

The form is the release's: its keys in its order, Python's ``json.dumps`` spacing and ``\\u`` escapes, days as
times, products in groups, some lines with ``style``, ``vote`` and ``image``, some metadata twice, without title, with
HTML entities or with the page's own script as title. A review is about 600 bytes, a product about 2 kB. The words are
nonsense.

    python -m xcrossrec_lab.speed.figures.import_reviews --rows 100000 --out DIR
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

ROWS_PER_ITEM, ROWS_PER_USER = 10, 5
CHUNK_ROWS = 100_000
FIRST_DAY, LAST_DAY = 12_784, 17_805  # days since 1970: 2005-01-01 to 2018-10-01
ITEM_SHIFT, USER_SHIFT = 20, 1000  # Zipf-Mandelbrot: how flat the head is
REPEATED, UNLISTED = 0.01, 0.001  # of the reviews; of the products

_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
_LETTERS = list("etaoinshrdlcumwfgypbvk")


@dataclass(frozen=True)
class Market:
    """Where the two files lie and how large they are (raw: before compression)."""

    reviews: Path
    metadata: Path
    rows: int
    raw_bytes: int


def write_market(folder: Path, rows: int, *, seed: int = 0) -> Market:
    """Write ``reviews.json.gz`` and ``metadata.json.gz``, in bounded memory.

    Args:
        folder: made if it is absent.
        rows: reviews; there is a tenth as many products, each reviewed at least once.
        seed: the same seed writes the same bytes.

    Raises:
        ValueError: fewer than 10 rows.
    """
    if rows < ROWS_PER_ITEM:
        raise ValueError(f"rows is {rows}, expected {ROWS_PER_ITEM} or more: a tenth as many products are needed")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    words = _Words(rng)
    reviews, metadata = folder / "reviews.json.gz", folder / "metadata.json.gz"
    raw = _store(reviews, _reviews(rng, words, rows))
    raw += _store(metadata, _metadata(rng, words, rows // ROWS_PER_ITEM))
    return Market(reviews, metadata, rows, raw)


class _Words:
    """Nonsense in English proportions: words by Zipf's law, made once, drawn by the chunk."""

    def __init__(self, rng: np.random.Generator) -> None:
        lengths = rng.poisson(4.2, 20_000) + 1
        letters = rng.choice(_LETTERS, lengths.sum(), p=_zipf_shares(len(_LETTERS), 3))
        self._vocabulary = np.array(["".join(part) for part in np.split(letters, np.cumsum(lengths)[:-1])])
        self._rng = rng
        self.texts = self._texts(30_000, lambda n: rng.lognormal(3.4, 1.1, n))
        self.summaries = self._texts(20_000, lambda n: 1 + rng.poisson(3, n))
        self.features = self._texts(20_000, lambda n: 5 + rng.poisson(8, n))
        self.names = self._texts(20_000, lambda n: 1 + rng.poisson(1, n))

    def _texts(self, count: int, lengths: Callable[[int], np.ndarray]) -> pl.Series:
        """Make texts of so many words, as JSON strings without their quotes."""
        sizes = np.clip(lengths(count).astype(np.int64), 1, 900)
        places = zipf_ranks(self._rng, len(self._vocabulary), int(sizes.sum()), 3)
        words = np.char.add(
            self._vocabulary[places],
            self._rng.choice([" ", ", ", ". ", "\n", "é ", "! "], len(places), p=[0.85, 0.06, 0.06, 0.01, 0.01, 0.01]),
        )
        ends = np.cumsum(sizes)
        texts = ("".join(words[end - size : end]).strip() for size, end in zip(sizes, ends, strict=True))
        return pl.Series([json.dumps(text)[1:-1] for text in texts])

    def draw(self, pool: pl.Series, count: int) -> pl.Series:
        return pool.gather(self._rng.integers(0, pool.len(), count))


def zipf_ranks(rng: np.random.Generator, size: int, count: int, shift: float) -> np.ndarray:
    """Draw ranks below ``size``: rank r in proportion to 1 / (r + shift), by inverting the distribution."""
    drawn = shift * ((size + shift) / shift) ** rng.random(count) - shift
    return np.minimum(drawn.astype(np.int64), size - 1)


def _zipf_shares(size: int, shift: float) -> np.ndarray:
    shares = 1 / (np.arange(size) + shift)
    return np.asarray(shares / shares.sum())


def _reviews(rng: np.random.Generator, words: _Words, rows: int) -> Iterator[bytes]:
    items, users, days = _interactions(rng, rows)
    for start in range(0, rows, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        yield _review_lines(rng, words, items[part], users[part], days[part])


def _interactions(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw who reviewed what on which day, grouped by product; every product has a review."""
    count = rows // ROWS_PER_ITEM
    items = np.concatenate([np.arange(count), zipf_ranks(rng, count, rows - count, ITEM_SHIFT)])
    items.sort()
    users = zipf_ranks(rng, max(rows // ROWS_PER_USER, 1), rows, USER_SHIFT)
    days = rng.integers(FIRST_DAY, LAST_DAY, rows)
    again = np.flatnonzero((rng.random(rows - 1) < REPEATED) & (items[1:] == items[:-1])) + 1
    users[again], days[again] = users[again - 1], days[again - 1]
    return items, users, days


def _review_lines(
    rng: np.random.Generator, words: _Words, items: np.ndarray, users: np.ndarray, days: np.ndarray
) -> bytes:
    count = len(items)
    stars = pl.Series(rng.choice(["1.0", "2.0", "3.0", "4.0", "5.0"], count, p=[0.07, 0.05, 0.09, 0.19, 0.6]))
    vote = _sometimes(rng, count, 0.15, pl.Series([f'"vote": "{n}", ' for n in range(2, 40)]))
    style = _sometimes(rng, count, 0.3, pl.Series([f'"style": {{"Size:": " {n} x 9 inch"}}, ' for n in range(50)]))
    image = _sometimes(rng, count, 0.03, pl.Series(['"image": ["https://images.example/I/71aTmX+gL._SY88.jpg"], ']))
    verified = pl.Series(rng.choice(["true", "false"], count, p=[0.85, 0.15]))
    return _filled(
            '{"overall": {}, {}"verified": {}, "reviewTime": "{}", "reviewerID": "{}", "asin": "{}", {}'
            '"reviewerName": "{}", "reviewText": "{}", "summary": "{}", {}"unixReviewTime": {}}',
            stars, vote, verified, _DATES.gather(days - FIRST_DAY), user_ids(users), item_ids(items), style,
            words.draw(words.names, count), words.draw(words.texts, count), words.draw(words.summaries, count), image,
            pl.Series(days * 86_400),
    )  # fmt: skip


def _metadata(rng: np.random.Generator, words: _Words, count: int) -> Iterator[bytes]:
    order = rng.permutation(count)
    listed = order[rng.random(count) >= UNLISTED] if count > 1 else order
    twice = np.concatenate([listed, rng.choice(listed, len(listed) // 100)])
    for start in range(0, len(twice), CHUNK_ROWS // 4):
        yield _metadata_lines(rng, words, twice[start : start + CHUNK_ROWS // 4], count)


def _metadata_lines(rng: np.random.Generator, words: _Words, items: np.ndarray, catalogue: int) -> bytes:
    count = len(items)
    feature = [words.draw(words.features, count) for _ in range(5)]
    also = [item_ids(rng.integers(0, catalogue, count)) for _ in range(24)]
    return _filled(
            '{"category": ["Toys & Games", "{}", "{}"], "tech1": "", "description": ["{}", "{}"], "fit": "", {}'
            f'"also_buy": [{_quoted(12)}], '
            '"image": ["https://images.example/I/{}._SS40_.jpg"], "tech2": "", '
            '"brand": "{}", "feature": ["{}", "{}", "{}"], "rank": [">#{} in Toys & Games"], '
            f'"also_view": [{_quoted(12)}], '
            '"details": {"Shipping Weight:": "{} ounces"}, "main_cat": "Toys & Games", '
            '"similar_item": "", "date": "", "price": "${}.99", "asin": "{}"}',
            words.draw(words.names, count), words.draw(words.names, count), words.draw(words.texts, count), feature[0],
            _titles(rng, words, count), *also[:12], item_ids(items), words.draw(words.names, count), *feature[1:4],
            pl.Series(rng.integers(1, 10**6, count)), *also[12:], pl.Series(rng.integers(1, 90, count)),
            pl.Series(rng.integers(1, 90, count)), item_ids(items),
    )  # fmt: skip


def _titles(rng: np.random.Generator, words: _Words, count: int) -> pl.Series:
    """Give ``"title": ...`` with the flaws of the release; 2% have none."""
    plain, chance = words.draw(words.features, count), pl.Series(rng.random(count))
    script = "\\nvar aPageStart = (new Date()).getTime();\\n"
    escaped = pl.format('"title": "{} &amp; &quot;{}&quot;", ', plain, words.draw(words.names, count))
    return pl.select(
        pl.when(chance < 0.02).then(pl.lit(""))
        .when(chance < 0.025).then(pl.lit(f'"title": "{script}", '))
        .when(chance < 0.1).then(escaped)
        .otherwise(pl.format('"title": "{}", ', plain))
    ).to_series()  # fmt: skip


def _sometimes(rng: np.random.Generator, count: int, share: float, texts: pl.Series) -> pl.Series:
    pool = pl.concat([texts, pl.Series([""])])
    chosen = np.where(rng.random(count) < share, rng.integers(0, texts.len(), count), texts.len())
    return pool.gather(chosen)


def user_ids(numbers: np.ndarray) -> pl.Series:
    """Write ids such as A3CIUOJXQ5VDQ2: the same number, the same id."""
    return _ids(b"A", 13, numbers)


def item_ids(numbers: np.ndarray) -> pl.Series:
    """Write ids such as B00006L9LC: the same number, the same id."""
    return _ids(b"B0", 8, numbers)


def _ids(prefix: bytes, digits: int, numbers: np.ndarray) -> pl.Series:
    """Scatter numbers over all ids of a length; the factor is prime to 36, so no two collide."""
    span = 36 ** min(digits, 8)
    rest = (numbers.astype(np.int64) * 1_000_003 + 36**6) % span
    text = np.full((len(numbers), len(prefix) + digits), ord("A"), dtype=np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    for place in range(text.shape[1] - 1, len(prefix) - 1, -1):
        text[:, place] = (
            _DIGITS[rest % 36] if place >= text.shape[1] - 8 else _DIGITS[(numbers * (place + 7) >> 3) % 36]
        )
        rest //= 36
    return pl.Series(text.view(f"S{text.shape[1]}").ravel().astype(str))


def _quoted(count: int) -> str:
    return ", ".join(['"{}"'] * count)


def _filled(template: str, *values: pl.Series) -> bytes:
    """Fill each ``{}`` of a line with a column; gives the lines of the chunk."""
    parts = template.split("{}")
    woven = [column for part, value in zip(parts, values, strict=False) for column in (pl.lit(part), value)]
    lines = pl.select(pl.concat_str([*woven, pl.lit(parts[-1])])).to_series()
    return ("\n".join(lines.to_list()) + "\n").encode()


def _date_texts() -> pl.Series:
    moments = (datetime.fromtimestamp(day * 86_400, UTC) for day in range(FIRST_DAY, LAST_DAY))
    return pl.Series([f"{moment:%m} {moment.day}, {moment.year}" for moment in moments])


_DATES = _date_texts()


def _store(path: Path, blocks: Iterable[bytes]) -> int:
    """Write one gzip member, compressing in a thread beside the generator; gives the raw bytes."""
    waiting: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
    total = 0
    with path.open("wb") as stream:
        writer = threading.Thread(target=_compress, args=(waiting, stream))
        writer.start()
        try:
            for block in blocks:
                total += len(block)
                waiting.put(block)
        finally:
            waiting.put(None)
            writer.join()
    return total


def _compress(waiting: queue.Queue[bytes | None], stream: BinaryIO) -> None:
    packer = zlib.compressobj(6, wbits=31)
    while (block := waiting.get()) is not None:
        stream.write(packer.compress(block))
    stream.write(packer.flush())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    market = write_market(given.out, given.rows, seed=given.seed)
    packed = market.reviews.stat().st_size + market.metadata.stat().st_size
    print(f"{given.out}: {market.rows} reviews, {market.raw_bytes >> 20} MiB, packed {packed >> 20} MiB")


if __name__ == "__main__":
    main()
