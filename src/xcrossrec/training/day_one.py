"""Fits the ladder's lower rungs: recent popularity, the bridge, and their weights.

Legend: ``item`` = one item of the catalogue, ``customer`` = one who bought in other categories too, ``other`` = an item
drawn at random, ``form`` = one way to score.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.models.bridge import Bridge
from xcrossrec.models.day_one import DayOne
from xcrossrec.models.dual import DualScorer, encode_titles, vector_dim
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, matcher_of
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.prompts import item_texts
from xcrossrec.scoring import Rung
from xcrossrec.types import ITEM, TIMESTAMP, USER

LEAST_SHARED = 40
"""Fewest customers of both categories to fit a bridge."""

MOST_CUSTOMERS = 4096
"""Customers that a bridge keeps, drawn by seed: 6 MB of MiniLM's vectors."""

POPULARITY_WEIGHTS = (0.0, 0.0125, 0.025, 0.05, 0.1)
"""Weights of log(1 + recent purchases), added to the bridge's score."""

BRIDGE_SHARES = (0.0, 0.1, 0.2, 0.4)
"""Shares of the bridge in the score of customers with purchases here."""

HALF_LIVES = (None, 365.0, 90.0, 30.0)
"""In days; None weighs all purchases alike."""

_FOLDS, _MOST_ASKED, _OTHERS, _NEGATIVES, _NEWEST = 5, 1000, 1000, 29, 20
_DAY = 86_400
_SCHEMA = {ITEM: pl.String, "lately": pl.Float64, "bought": pl.Int64}

_log = logging.getLogger(__name__)

Weights = Mapping[Rung, Mapping[str, float]]


def with_day_one(
    model: Model, domain: Domain, users: Sequences, *, seed: int = 0, scorer: ModelScorer | None = None
) -> Model:
    """Let a model answer customers who have bought little or nothing here.

    Args:
        model: `dual`, with purchases (:mod:`xcrossrec.training.purchases`), trained or not; changed in place.
        domain: gives items, texts, times and histories from other categories, if it has them.
        users: of its train split, whose purchases the model knows.
        scorer: reads this domain's texts as the model does; its vectors are reused.
    """
    popularity, half_life = popularity_of(domain, users)
    bridge: Bridge | None = None
    weights: Weights = {"none": {"popularity": 1.0}}
    rows, texts = customers_of_both(domain, users, seed)
    if len(rows) >= LEAST_SHARED:
        lately = popularity["lately"].to_numpy()
        others = Others.draw(lately, seed)
        every = [text for each in texts for text in each]
        if scorer is not None and isinstance(scorer.inner, DualScorer):
            vectors, read = scorer.inner.vectors, scorer.elsewhere(every)
        else:
            vectors = _encoded(model, domain.texts, {*others.rows.tolist(), *(row for own in rows for row in own)})
            read = encode_titles(model, every, as_history=True)
        means = torch.stack([part.mean(0) for part in torch.split(read, list(map(len, texts)))])
        fitting = Fitting(vectors, domain.items[ITEM].to_list(), means, rows, lately, others)
        bridge = fitting.bridge(range(len(rows)))
        weights = {**weights, **fitting.weights(matcher_of(model), seed)}
    elif domain.other is not None:
        _log.warning(
            "%d customers of %s bought in another category before; learning from that needs %d: a customer without "
            "purchases here is shown bestsellers",
            *(len(rows), domain.name, LEAST_SHARED),
        )
    new = DayOne(vector_dim(model), popularity, weights, half_life_days=half_life, bridge=bridge)
    return kind_of(model).assemble([*(module for module in model if not isinstance(module, DayOne)), new])


def customers_of_both(
    domain: Domain, users: Sequences, seed: int
) -> tuple[list[tuple[int, ...]], list[tuple[str, ...]]]:
    """The customers that a bridge learns from: each one's item rows here, and newest texts from elsewhere."""
    elsewhere = domain.other_histories("train", first=True)
    shared = [number for number, user in enumerate(users.user_ids) if user in elsewhere]
    kept = [shared[place] for place in np.random.default_rng(seed).permutation(len(shared))[:MOST_CUSTOMERS]]
    return [users.rows[number] for number in kept], [elsewhere[users.user_ids[number]][-_NEWEST:] for number in kept]


def popularity_of(domain: Domain, users: Sequences) -> tuple[pl.DataFrame, float | None]:
    """Count how often each item was bought; with times, older purchases count less if that predicts better.

    The half-life is the longest one whose counts predict the last fifth of the time, from the purchases before, as well
    as the best one does, within noise.

    Returns:
        ``item_id``, ``lately`` and ``bought``, one row an item, and the half-life in days; None where all count alike.
    """
    frame = domain.frame("train").join(pl.DataFrame({USER: users.user_ids}), on=USER, how="semi")
    row_of = {item: row for row, item in enumerate(domain.items[ITEM].to_list())}
    once = frame.unique([USER, ITEM], keep="first", maintain_order=True)
    rows = once[ITEM].replace_strict(row_of, return_dtype=pl.Int64).to_numpy()
    bought = np.bincount(rows, minlength=domain.items.height)
    half_life, lately = None, bought.astype(np.float64)
    if TIMESTAMP in once.columns and not once[TIMESTAMP].null_count():
        times = _until_today(once[TIMESTAMP].to_numpy().astype(np.float64))
        cut = float(np.quantile(times, 0.8))
        old, new = times <= cut, rows[times > cut]
        if len(new):
            forms = [_decayed(rows[old], times[old], cut, days, len(bought)) for days in HALF_LIVES]
            half_life = HALF_LIVES[_simplest(np.stack([_foretold(count, new) for count in forms]))]
        lately = _decayed(rows, times, float(times.max()), half_life, len(bought))
    return pl.DataFrame({ITEM: list(row_of), "lately": lately, "bought": bought}, schema=_SCHEMA), half_life


@dataclass(frozen=True)
class Others:
    """A sample of the catalogue: the first ``alike`` items are drawn uniformly, the others by popularity."""

    rows: Int64[np.ndarray, " other"]
    alike: int

    @classmethod
    def draw(cls, lately: Float64[np.ndarray, " item"], seed: int) -> Others:
        """Draw a thousand of each kind."""
        rng = np.random.default_rng(seed)
        alike = rng.permutation(len(lately))[:_OTHERS]
        return cls(np.concatenate([alike, rng.choice(len(lately), _OTHERS, p=lately / lately.sum())]), len(alike))

    def ranked(
        self,
        target: Float64[np.ndarray, "customer form"],
        scores: Float64[np.ndarray, "customer form other"],
        own: Sequence[Sequence[int]],
    ) -> Float64[np.ndarray, "form customer"]:
        """The expected reciprocal rank among 29 others, half drawn uniformly, half by popularity.

        With q the share of the others that score at least as high as the target, it is (1 - (1 - q)^30) / (30 q). A
        customer's own items (``own``) do not count.
        """
        counts = np.stack([~np.isin(self.rows, list(rows)) for rows in own])[:, None, :]
        above = (scores >= target[..., None]) & counts
        parts = [slice(None, self.alike), slice(self.alike, None)]
        shares = [above[..., part].sum(-1) / counts[..., part].sum(-1).clip(1) for part in parts]
        return np.asarray(np.mean([_reciprocal(share) for share in shares], axis=0).T)


@dataclass(frozen=True)
class Fitting:
    """Customers of both categories, with whom the weights of a bridge are chosen.

    Attributes:
        vectors: unit vectors of the catalogue; of those items that nothing is asked about anything.
        elsewhere: mean vectors of what the customers bought elsewhere.
        rows: what they bought here, oldest first.
        lately: how much each item is bought.
    """

    vectors: Float32[Tensor, "item dim"]
    item_ids: Sequence[str]
    elsewhere: Float32[Tensor, "customer dim"]
    rows: Sequence[Sequence[int]]
    lately: Float64[np.ndarray, " item"]
    others: Others

    def bridge(self, customers: Sequence[int]) -> Bridge:
        """Fit one on some of the customers."""
        rows = [self.rows[customer] for customer in customers]
        return Bridge.fit(self.elsewhere[list(customers)], rows, self.vectors, self.item_ids)

    def weights(self, matcher: HistoryMatcher, seed: int) -> dict[Rung, dict[str, float]]:
        """Choose the weights by cross-validation: each fifth of the customers is scored by a bridge fitted on the rest.

        Of all forms whose expected reciprocal rank is within one standard error of the best's, the simplest is taken:
        popularity, or the text, alone; then the smallest weight of popularity, or of the bridge.
        """
        order = np.random.default_rng(seed).permutation(len(self.rows))
        found: dict[Rung, list[Float64[np.ndarray, "form customer"]]] = {"other": [], "one": [], "several": []}
        for part in range(_FOLDS):
            asked = order[part::_FOLDS][: _MOST_ASKED // _FOLDS].tolist()
            bridge = self.bridge(np.setdiff1d(order, order[part::_FOLDS]).tolist())
            found["other"].append(self._first(bridge, asked))
            found["one"].append(self._next(bridge, [c for c in asked if len(self.rows[c]) > 1], 1, matcher))
            found["several"].append(self._next(bridge, [c for c in asked if len(self.rows[c]) > 2], None, matcher))
        place = {rung: _simplest(np.concatenate(each, axis=1)) for rung, each in found.items()}
        other = {"bridge": float(place["other"] > 0), "popularity": (1.0, *POPULARITY_WEIGHTS)[place["other"]]}
        return {"other": other, **{rung: {"bridge": BRIDGE_SHARES[place[rung]]} for rung in ("one", "several")}}

    def _first(self, bridge: Bridge, asked: Sequence[int]) -> Float64[np.ndarray, "form customer"]:
        """How each first purchase is ranked: by popularity, and by the bridge with growing weights of popularity."""
        targets = [self.rows[customer][0] for customer in asked]
        own, others = self._by_bridge(bridge, asked, targets)
        theirs = np.log1p(self.lately[self.others.rows])[None, None]
        mine = np.log1p((self.lately[targets] - 1).clip(0))[:, None]  # her own purchase is not known yet
        weights = np.array(POPULARITY_WEIGHTS)
        target = np.concatenate([mine, own[:, None] + weights * mine], axis=1)
        scores = np.concatenate(
            [np.broadcast_to(theirs, (len(asked), 1, theirs.size)), others[:, None] + weights[:, None] * theirs], axis=1
        )
        return self.others.ranked(target, scores, [self.rows[customer] for customer in asked])

    def _next(
        self, bridge: Bridge, asked: Sequence[int], known: int | None, matcher: HistoryMatcher
    ) -> Float64[np.ndarray, "form customer"]:
        """How the second or (``known`` None) last purchase is ranked by the text with growing shares of the bridge."""
        if not asked:
            return np.zeros((len(BRIDGE_SHARES), 0))
        sequences = [self.rows[c][: known + 1] if known else self.rows[c] for c in asked]
        targets = [rows[-1] for rows in sequences]
        own, others = self._by_bridge(bridge, asked, targets)
        both = np.stack([self._by_text(matcher, rows[:-1], rows[-1]) for rows in sequences])
        share = np.array(BRIDGE_SHARES)
        target = (1 - share) * both[:, :1] + share * own[:, None]
        scores = (1 - share)[:, None] * both[:, None, 1:] + share[:, None] * others[:, None]
        return self.others.ranked(target, scores, [self.rows[customer] for customer in asked])

    @torch.no_grad()
    def _by_text(
        self, matcher: HistoryMatcher, history: Sequence[int], target: int
    ) -> Float64[np.ndarray, " target_and_others"]:
        """The text's scores of what was bought next, and of the others."""
        items = torch.cat([self.vectors[target][None], self.vectors[self.others.rows]])
        present = torch.ones(1, len(history), dtype=torch.bool)
        return np.asarray(matcher.match(self.vectors[list(history)][None], present, items)[0].double())

    def _by_bridge(
        self, bridge: Bridge, asked: Sequence[int], targets: Sequence[int]
    ) -> tuple[Float64[np.ndarray, " customer"], Float64[np.ndarray, "customer other"]]:
        near = bridge.near(torch.cat([self.vectors[self.others.rows], self.vectors[list(targets)]]))
        scores = np.stack([near.scores(each).double().numpy() for each in bridge.weigh(self.elsewhere[list(asked)])])
        count = len(self.others.rows)
        return scores[np.arange(len(asked)), count + np.arange(len(asked))], scores[:, :count]


def _encoded(model: Model, texts: Sequence[str], rows: set[int]) -> Float32[Tensor, "item dim"]:
    """The vectors of some of a catalogue's items, each in its row."""
    some = sorted(rows)
    vectors = torch.zeros(len(texts), vector_dim(model))
    vectors[some] = encode_titles(model, item_texts([texts[row] for row in some]))
    return vectors


def _until_today(times: Float64[np.ndarray, " purchase"]) -> Float64[np.ndarray, " purchase"]:
    """Replace future times (a wrong clock, a later order) by the latest past one, since they would age all others. If
    most are in the future, this machine's clock is wrong or the data are made up, and times stay."""
    ahead = times > time.time()
    return np.minimum(times, times[~ahead].max()) if 0 < ahead.mean() < 0.5 else times


def _decayed(
    rows: Int64[np.ndarray, " purchase"],
    times: Float64[np.ndarray, " purchase"],
    now: float,
    days: float | None,
    items: int,
) -> Float64[np.ndarray, " item"]:
    weights = None if days is None else 0.5 ** ((now - times) / (days * _DAY))
    return np.bincount(rows, weights, items).astype(np.float64)


def _foretold(
    counts: Float64[np.ndarray, " item"], bought: Int64[np.ndarray, " purchase"]
) -> Float64[np.ndarray, " purchase"]:
    """The expected reciprocal rank of purchases among 29 items drawn uniformly, ranked by their counts."""
    lower = np.searchsorted(np.sort(counts), counts[bought], side="left")
    return _reciprocal((len(counts) - lower - 1) / max(len(counts) - 1, 1))


def _reciprocal(share: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    q, n = np.clip(share, 1e-9, 1.0), _NEGATIVES + 1
    return np.asarray(-np.expm1(n * np.log1p(-np.minimum(q, 1 - 1e-12))) / (n * q))


def _simplest(found: Float[np.ndarray, "form asked"]) -> int:
    """The first form that is not worse than the best by more than one standard error of the difference."""
    if found.shape[1] < 2:
        return 0
    lost = found[found.mean(1).argmax()] - found
    noise = lost.std(1, ddof=1) / np.sqrt(found.shape[1])
    return int(np.argmax(lost.mean(1) <= noise))
