"""Whether the targets of a split are as popular as those of train."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from xcrossrec.data.lint.report import Finding, finding
from xcrossrec.data.lint.tables import Tables
from xcrossrec.types import ITEM, Split

RESAMPLES = 199
LEVEL = 0.01
FEWEST_TARGETS = 20  # below, chance alone moves the distribution
_SEED = 0


def popularity_shift(tables: Tables, split: Split) -> Iterator[Finding]:
    """Compare which targets a split has with what a draw of train's own users would give.

    The statistic is the Jensen-Shannon divergence (in bits) between the targets' distribution and that of
    train's targets. Its null distribution comes from train's users, drawn without replacement and compared
    with the rest of train.
    """
    train, other = _target_rows(tables, "train"), _target_rows(tables, split)
    size = min(len(other), len(train) // 2)
    if size < FEWEST_TARGETS:
        return
    rng = np.random.default_rng(_SEED)
    n_items = int(max(train.max(), other.max())) + 1
    chance = np.array([_split_divergence(rng.permutation(train), size, n_items) for _ in range(RESAMPLES)])
    observed = _divergence(rng.permutation(other)[:size], rng.permutation(train)[size:], n_items)
    share = (1 + int((chance >= observed).sum())) / (1 + RESAMPLES)
    if share > LEVEL:
        return
    counts = np.bincount(train, minlength=n_items)
    message = (
        f"targets are distributed otherwise than train's: Jensen-Shannon divergence {observed:.3f} bit, by chance "
        f"{chance.mean():.3f} (p = {share:.3f}); mean number of train targets alike {counts[other].mean():.1f}, "
        f"in train itself {counts[train].mean() - 1:.1f}: report popularity negatives too"
    )
    yield from finding("popularity_shift", tables.name, split, [], message, count=len(other))


def _target_rows(tables: Tables, split: Split) -> Int64[np.ndarray, " target"]:
    """Number the targets of a split; one number an item over all splits."""
    every = pl.concat([series.rename(ITEM) for series in tables.targets.values()]).unique().sort()
    rows = every.search_sorted(tables.targets[split])
    return rows.to_numpy().astype(np.int64)


def _split_divergence(shuffled: Int64[np.ndarray, " target"], size: int, n_items: int) -> float:
    """Compare the first `size` targets with the rest."""
    return _divergence(shuffled[:size], shuffled[size:], n_items)


def _divergence(first: Int64[np.ndarray, " one"], second: Int64[np.ndarray, " two"], n_items: int) -> float:
    """Compute the Jensen-Shannon divergence of two samples of rows, in bits."""
    p, q = (np.bincount(rows, minlength=n_items) / len(rows) for rows in (first, second))
    mean = (p + q) / 2
    return (_kullback_leibler(p, mean) + _kullback_leibler(q, mean)) / 2


def _kullback_leibler(p: Float64[np.ndarray, " item"], q: Float64[np.ndarray, " item"]) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))
