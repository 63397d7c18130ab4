"""A catalogue of a million vectors that behave like title embeddings, out of 38 thousand real titles.

Real titles of ../shared are encoded by the embedded MiniLM, and so are 22 thousand that join the first half of one
title to the second half of another of the same domain. A linear map from the two titles' vectors to the joined one's is
fitted, and makes the rest: the map of two random titles plus a random mix of two of the fit's residuals. Against joined
titles that were really encoded, the made vectors have the same spread over dimensions and neighbours that are a little
further away (lab/log, 2026-11-23), which makes them no easier to search.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from xcrossrec.models.kinds import build_model

JOINED = 22_000
QUERIES = 1_000
_PART = 50_000


def vectors(amazon: Path, work: Path, items: int, titles: int = 1_000_000) -> tuple[np.ndarray, np.ndarray]:
    """Make or reopen the catalogue.

    Args:
        amazon: the folder with ``*/items.csv.gz``.
        work: where vectors are kept between runs.
        items: how many; the real ones come first.
        titles: at most so many real titles of each domain.

    Returns:
        unit vectors of the items (item, dim), mapped, and of queries (query, dim): joined titles, not in the catalogue.
    """
    place = work / f"vectors-{items}.npy"
    domains = [_titles(path)[:titles] for path in sorted(amazon.glob("*/items.csv.gz"))]
    rng = np.random.default_rng(0)
    joined, parts = _join(domains, min(JOINED, items // 20), rng)
    encoded = _encoded([title for each in domains for title in each] + joined, work / f"encoded-{len(joined)}.npy")
    real, made = encoded[: -len(joined)], encoded[-len(joined) :]
    queries = made[-min(QUERIES, len(made) // 10) :]
    if not place.exists():
        _write(place, items, real, made[: -len(queries)], _Maker(real, made, parts, domains, rng))
    return np.load(place, mmap_mode="r+"), queries


def _titles(path: Path) -> list[str]:
    titles = pl.read_csv(path)["title"].cast(pl.String).drop_nulls().to_list()
    return [title for title in titles if title.strip()]


def _join(domains: list[list[str]], count: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Titles made of two halves, and the rows (first, second, domain) of the titles they come from."""
    starts = np.cumsum([0, *map(len, domains)])
    joined, parts = [], []
    for domain in rng.choice(len(domains), size=count, p=np.diff(starts) / starts[-1]):
        first, second = rng.integers(len(domains[domain]), size=2)
        left, right = domains[domain][first].split(), domains[domain][second].split()
        joined.append(" ".join(left[: (len(left) + 1) // 2] + right[(len(right) + 1) // 2 :]))
        parts.append((starts[domain] + first, starts[domain] + second, domain))
    return joined, np.array(parts)


def _encoded(titles: list[str], place: Path) -> np.ndarray:
    if not place.exists():
        from xcrossrec.models.base import load_base
        from xcrossrec.models.dual import encode_titles
        from xcrossrec.models.source import SourceEncoder

        np.save(place, encode_titles(build_model(SourceEncoder(load_base())), titles).numpy())
    return np.asarray(np.load(place))


class _Maker:
    """Draws vectors of joined titles without encoding them."""

    def __init__(
        self, real: np.ndarray, made: np.ndarray, parts: np.ndarray, domains: list[list[str]], rng: np.random.Generator
    ) -> None:
        inputs = np.hstack([real[parts[:, 0]], real[parts[:, 1]]])
        self._map = np.linalg.solve(inputs.T @ inputs + np.eye(inputs.shape[1]), inputs.T @ made).astype(np.float32)
        self._residual = [(made - inputs @ self._map)[parts[:, 2] == number] for number in range(len(domains))]
        self._real = np.split(real, np.cumsum([len(titles) for titles in domains])[:-1])
        self._share = np.array([len(titles) for titles in domains]) / len(real)
        self._rng = rng

    def draw(self, count: int) -> np.ndarray:
        """Unit vectors (count, dim)."""
        made = []
        for real, residual, size in zip(
            self._real, self._residual, self._rng.multinomial(count, self._share), strict=True
        ):
            ends = np.hstack([real[self._rng.integers(len(real), size=size)] for _ in range(2)])
            angle = self._rng.uniform(0, 2 * np.pi, (size, 1)).astype(np.float32)
            left, right = (residual[self._rng.integers(len(residual), size=size)] for _ in range(2))
            made.append(ends @ self._map + np.cos(angle) * left + np.sin(angle) * right)
        whole = np.concatenate(made)
        return self._rng.permutation(whole / np.linalg.norm(whole, axis=1, keepdims=True))


def _write(place: Path, items: int, real: np.ndarray, made: np.ndarray, maker: _Maker) -> None:
    known = np.concatenate([real, made])[:items]
    temporary = place.with_suffix(".tmp")
    whole = np.lib.format.open_memmap(temporary, "w+", np.float32, (items, real.shape[1]))
    whole[: len(known)] = known
    for start in range(len(known), items, _PART):
        end = min(start + _PART, items)
        whole[start:end] = maker.draw(end - start)
    whole.flush()
    temporary.replace(place)
