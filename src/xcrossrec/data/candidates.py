"""Candidate lists: each user's target and sampled negatives, drawn once with a seed and kept in a file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
from jaxtyping import Int64

from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.data.store import CANDIDATES_FOLDER, read_parquet
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.progress import stage
from xcrossrec.replacing import replacing_file
from xcrossrec.types import NEGATIVES, SPLITS, USER, Negatives, Split

NEGATIVES_EACH = 29
_LOG = logging.getLogger(__name__)
_ROWS = "rows"
_CHECKSUM = "checksum"


@dataclass(frozen=True, eq=False)
class Candidates:
    """One list of item rows for each user: the target in column 0, then the negatives in the order drawn."""

    user_ids: tuple[str, ...]
    rows: Int64[np.ndarray, "user candidate"]

    def __len__(self) -> int:
        return len(self.user_ids)


def draw_candidates(domain: Domain, split: Split, negatives: Negatives, *, seed: int) -> Candidates:
    """Draw distinct negatives that are not in the user's sequence; if repeats are kept, only the target is excluded.

    Each user has a separate random stream, seeded by the seed, the kind of negatives, the split and the user id, so a
    list does not depend on the other users or their order.

    Args:
        split: whose users; those with fewer than two items have no target and get no list, nor do those for whom
            fewer than 29 items remain.
        negatives: ``uniform`` over the catalogue, or ``popularity``: in proportion to the counts in train,
            without replacement (an item that does not occur in train is never drawn).
        seed: 0 or more.

    Raises:
        ConfigError: ``full`` (which ranks the whole catalogue), or a negative seed.
        DataError: the split is absent, or the catalogue is too small to draw 29 negatives for any user.
    """
    if negatives not in ("uniform", "popularity"):
        raise ConfigError(f"no candidates are drawn for negatives {negatives!r}: choose uniform or popularity")
    if seed < 0:
        raise ConfigError(f"the seed of the candidates is {seed}: give 0 or more")
    sequences, weights, excluded, left = _drawable(domain, split, negatives)
    cumulative = np.cumsum(weights)
    chosen = _with_enough(domain, split, negatives, left)
    rows = np.empty((len(chosen), 1 + NEGATIVES_EACH), dtype=np.int64)
    with stage(f"drawing {negatives} candidates", "users") as bar:
        for place, index in enumerate(chosen):
            user = int.from_bytes(hashlib.sha256(sequences.user_ids[index].encode()).digest()[:8], "little")
            rng = np.random.default_rng([seed, NEGATIVES.index(negatives), SPLITS.index(split), user])
            rows[place, 0] = sequences.rows[index][-1]
            rows[place, 1:] = _draw_distinct(rng, cumulative, excluded[index], NEGATIVES_EACH)
            bar.at(place + 1, len(chosen))
    return Candidates(tuple(sequences.user_ids[index] for index in chosen), rows)


def _drawable(
    domain: Domain, split: Split, negatives: Negatives
) -> tuple[Sequences, Int64[np.ndarray, " item"], list[tuple[int, ...]], list[int]]:
    """The users, the items' weights, each user's excluded items, and how many items remain for each user."""
    sequences = domain.sequences(split)
    weights = domain.train_counts() if negatives == "popularity" else np.ones(domain.items.height, np.int64)
    excluded = [rows[-1:] if domain.keeps_repeats else rows for rows in sequences.rows]
    every = int(np.count_nonzero(weights))
    return sequences, weights, excluded, [every - sum(1 for row in set(rows) if weights[row]) for rows in excluded]


def _with_enough(domain: Domain, split: Split, negatives: Negatives, left: Sequence[int]) -> list[int]:
    """Choose the users for whom enough items remain, and log how many are left out."""
    chosen = [index for index, count in enumerate(left) if count >= NEGATIVES_EACH]
    if left and not chosen:
        raise DataError(
            f"{NEGATIVES_EACH} {negatives} negatives cannot be drawn for any user of domain {domain.name!r}: at most "
            f"{max(left)} of {domain.items.height} items qualify; take a larger catalogue, or rank the whole one "
            "(--negatives full)"
        )
    if len(chosen) < len(left):
        _LOG.info(
            "%s, %s: %d of %d users are left out of %s negatives: they bought all but fewer than %d items",
            domain.name, split, len(left) - len(chosen), len(left), negatives, NEGATIVES_EACH,
        )  # fmt: skip
    return chosen


def can_draw(domain: Domain, split: Split, negatives: Negatives) -> bool:
    """Whether enough items remain to draw negatives for at least one user of a split."""
    *_, left = _drawable(domain, split, negatives)
    return not left or max(left) >= NEGATIVES_EACH


def candidates_for(
    domain: Domain, split: Split, negatives: Negatives, *, seed: int, directory: Path | str | None
) -> Candidates:
    """Read the candidate lists, ``uniform`` or ``popularity``, from their file; draw and write them if it is absent.

    Args:
        directory: the domain's folder; the file is in its ``candidates``. None draws without writing.

    Raises:
        DataError: the file belongs to other data or settings, or is damaged; see also `draw_candidates`.
    """
    if directory is None:
        return draw_candidates(domain, split, negatives, seed=seed)
    file = candidates_file(directory, split, negatives, seed=seed)
    if file.exists():
        return _read(file, domain, split, negatives, seed)
    drawn = draw_candidates(domain, split, negatives, seed=seed)
    lists = pl.Series(_ROWS, drawn.rows.tolist(), dtype=pl.List(pl.Int64))
    frame = pl.DataFrame([pl.Series(USER, drawn.user_ids, dtype=pl.String), lists]).with_columns(
        pl.lit(domain.fingerprint).alias("fingerprint"),
        pl.lit(negatives).alias("negatives"),
        pl.lit(seed).alias("seed"),
        pl.lit(crc32(drawn.rows.tobytes())).alias(_CHECKSUM),
    )
    with replacing_file(file) as temporary:
        frame.write_parquet(temporary)
    return drawn


def candidates_file(directory: Path | str, split: Split, negatives: Negatives, *, seed: int) -> Path:
    """The path of a file of candidate lists in a domain's folder."""
    return Path(directory) / CANDIDATES_FOLDER / f"{split}-{negatives}-seed{seed}.parquet"


def _draw_distinct(
    rng: np.random.Generator, cumulative: Int64[np.ndarray, " item"], excluded: Iterable[int], count: int
) -> list[int]:
    """Sample without replacement by cumulative weights; excluded items and repeats are rejected."""
    taken = set(excluded)
    chosen: list[int] = []
    size = 2 * count
    while True:
        ticks = rng.integers(0, cumulative[-1], size=size)
        for row in np.searchsorted(cumulative, ticks, side="right").tolist():
            if row not in taken:
                taken.add(row)
                chosen.append(row)
                if len(chosen) == count:
                    return chosen
        size = min(2 * size, 1 << 20)  # a few very popular items take many draws


def _read(file: Path, domain: Domain, split: Split, negatives: Negatives, seed: int) -> Candidates:
    """Read a candidate file and check that it belongs to this data and these settings."""
    frame = read_parquet(file, remedy="delete it to draw the candidates again")
    expected = {"fingerprint": domain.fingerprint, "negatives": negatives, "seed": seed}
    for column, value in expected.items():
        found = frame[column].unique().to_list() if column in frame.columns else []
        if found != [value]:
            raise DataError(
                f"{file} has {column} {', '.join(map(str, found)) or 'none'}, expected {value}: it belongs "
                "to other data or settings; delete it to draw the candidates again"
            )
    sequences, *_, left = _drawable(domain, split, negatives)
    kept = _with_enough(domain, split, negatives, left)
    users = tuple(sequences.user_ids[index] for index in kept)
    lists = {USER, _ROWS} <= set(frame.columns)
    if not lists or tuple(frame[USER].to_list()) != users or not set(frame[_ROWS].list.len()) <= {1 + NEGATIVES_EACH}:
        raise DataError(f"{file} has other users or list lengths than expected: delete it to draw the candidates again")
    rows = np.array(frame[_ROWS].to_list(), dtype=np.int64).reshape(len(users), 1 + NEGATIVES_EACH)
    if _CHECKSUM in frame.columns and frame[_CHECKSUM].unique().to_list() != [crc32(rows.tobytes())]:
        raise DataError(f"{file} is damaged (its checksum differs): delete it to draw the candidates again")
    return Candidates(users, rows)
