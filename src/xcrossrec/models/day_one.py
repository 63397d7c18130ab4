"""What a `dual` model knows for customers with few or no purchases here: recent bestsellers, and a bridge.

Legend: ``slot`` = a history's item, ``lead`` = one of the bridge's, ``item`` = one item to score, ``part`` = some of
them, ``dim`` = vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from heapq import nlargest
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Float64
from pydantic import Field
from torch import Tensor

from xcrossrec.copurchase import CoPurchases, Term
from xcrossrec.data.store import read_parquet
from xcrossrec.exceptions import BundleError
from xcrossrec.models.bridge import Bridge, Near
from xcrossrec.models.files import Dim, Settings, read_settings
from xcrossrec.models.heads import Head
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import Weight, purchases_of
from xcrossrec.scoring import Rung, rung_of
from xcrossrec.types import ITEM, USER

POPULARITY = "popularity.parquet"
_POPULARITY_SCHEMA = pl.Schema({ITEM: pl.String, "lately": pl.Float64, "bought": pl.Int64})

MOST_POPULAR, HEAVIEST = 1000, 8
"""Bestsellers, and leads of the bridge, near which a catalogue that is too large to score is searched."""

Pool: TypeAlias = Callable[[Float[Tensor, "slot part"]], Float[Tensor, " part"]]


class RungWeights(Settings):
    """Weights of the parts of a score."""

    bridge: Annotated[float, Field(ge=0, le=1)] = 0.0
    popularity: Weight = 0.0
    text: Annotated[float, Field(ge=0, le=1)] = 1.0


class DayOneSettings(Settings):
    """The ladder."""

    dim: Dim
    bridged: bool
    half_life_days: Annotated[float, Field(gt=0)] | None
    weights: dict[Rung, RungWeights]


class DayOne(Head):
    """Recent popularity and the bridge from other categories; as a module it passes a text's vector through.

    Args:
        popularity: ``item_id``, ``lately`` (purchases, older ones counting less) and ``bought`` (all of them).
        weights: by rung, of ``bridge`` (its share of the score, from 0 to 1) and ``popularity`` (log of 1 + recent
            purchases); ``text`` is 1 by default, 0 leaves the text out.
        half_life_days: the age at which a purchase counts half; None weighs all alike.
        bridge: from other categories; None if too few customers of both were known.
    """

    config_keys: list[str] = ["dim", "bridged", "half_life_days", "weights"]  # noqa: RUF012 - as the library has it
    config_file_name = "day_one.json"

    def __init__(
        self,
        dim: int,
        popularity: pl.DataFrame,
        weights: Mapping[Rung, Mapping[str, float]],
        *,
        half_life_days: float | None = None,
        bridge: Bridge | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.popularity, self.half_life_days, self.bridge = dim, popularity, half_life_days, bridge
        self.weights = {rung: dict(each) for rung, each in weights.items()}

    @property
    def bridged(self) -> bool:
        """Whether there is a bridge."""
        return self.bridge is not None

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write settings, popularity and the bridge."""
        self.save_config(output_path)
        self.popularity.write_parquet(Path(output_path) / POPULARITY)
        if self.bridge is not None:
            self.bridge.save(Path(output_path))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Read back (BundleError: a weight out of its bounds, or damaged tables or vectors)."""
        folder = Path(model_name_or_path) / subfolder
        found = read_settings(folder / cls.config_file_name, DayOneSettings)
        table = read_parquet(folder / POPULARITY, remedy="copy or train the model again")
        whole = table.schema == _POPULARITY_SCHEMA and not any(table.null_count().row(0))
        if not whole or not (table["lately"].is_finite() & (table["lately"] >= 0)).all():
            raise BundleError(f"{folder / POPULARITY} is no table of what was bought: copy or train the model again")
        bridge = Bridge.load(folder, found["dim"]) if found["bridged"] else None
        return cls(found["dim"], table, found["weights"], half_life_days=found["half_life_days"], bridge=bridge)

    @cached_property
    def _known(self) -> tuple[dict[str, float], dict[str, int]]:
        return _known(self.popularity)

    def prior(self, counts: CoPurchases) -> dict[str, float]:
        """log(1 + recent purchases) by item id; purchases added since training count in full."""
        lately, bought = self._known
        if counts.forgotten:
            lately, bought = _known(without(self.popularity, counts.forgotten))
        now = counts.popularities()
        fresh = {item: count - bought.get(item, 0) for item, count in now.items()}
        items, values = list(fresh), [lately.get(item, 0.0) + max(more, 0) for item, more in fresh.items()]
        return dict(zip(items, np.log1p(np.array(values)).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Everywhere:
    """What every item gets in addition to its text score: the bridge's part, and its recent popularity.

    Attributes:
        share: of the bridge in the score.
        leads: the bridge's weights of what customers bought here; None without a bridge.
    """

    ladder: Ladder
    share: float
    leads: Float32[Tensor, " lead"] | None
    popularity: float

    def __call__(
        self, ids: Sequence[str], vectors: Float[Tensor, "item dim"], whole: object
    ) -> Float64[np.ndarray, " item"]:
        """Give it, by the items' ids and vectors; see :meth:`Standing.added`."""
        bridge, added = self.ladder.day_one.bridge, np.zeros(len(ids))
        if self.popularity:
            added += self.popularity * self.ladder.prior(ids, whole)
        if self.leads is not None and bridge is not None:
            added += self.share * self.ladder.near(bridge, vectors, whole).scores(self.leads).double().numpy()
        return added

    def likely(self, most: int) -> tuple[Sequence[str], Float[Tensor, "_ dim"] | None]:
        """The ids of recent bestsellers, and the vectors of the leads with the largest weights."""
        bridge, popular = self.ladder.day_one.bridge, self.ladder.most_popular()[:most] if self.popularity else ()
        if self.leads is None or bridge is None:
            return popular, None
        return popular, bridge.leads[torch.topk(self.leads, min(HEAVIEST, len(self.leads))).indices]


@dataclass(frozen=True, eq=False)
class Standing:
    """How a question is scored: text score x (1 - share) + what :meth:`added` gives.

    Attributes:
        rung: of the ladder.
        reason: in words.
        bonus: what co-purchases add, by item id.
        share: of the bridge in the score; the text has the rest, or nothing without a history here. 1 without a bridge
            means popularity alone.
        everywhere: what is added to all items by their ids and vectors; None adds nothing.
        alike: what customers with similar purchases elsewhere bought most here, with their shares.
    """

    rung: Rung
    reason: str
    bonus: Mapping[str, float]
    share: float = 0.0
    everywhere: Everywhere | None = None
    alike: Sequence[tuple[str, float]] = ()

    def added(
        self, ids: Sequence[str], vectors: Float[Tensor, "item dim"], whole: object = None
    ) -> Float64[np.ndarray, " item"]:
        """What is added to the items' text scores.

        Args:
            vectors: of the items, unit ones.
            whole: an unchanging owner of exactly these items, for which results that depend on no customer are cached.
        """
        bonus = np.array([self.bonus.get(item, 0.0) for item in ids]) if self.bonus else np.zeros(len(ids))
        return bonus if self.everywhere is None else bonus + self.everywhere(ids, vectors, whole)

    def pool(self, text: Pool) -> Pool:
        """The text's part of the score."""
        if self.rung in ("none", "other"):
            return lambda products: products[0] * 0
        return (lambda products: text(products) * (1 - self.share)) if self.share else text


class Ladder:
    """Decides how to score for a customer by what is known of her; without a :class:`DayOne`, popularity is counted
    from ``term``."""

    def __init__(self, term: Term, day_one: DayOne | None) -> None:
        self.term, self.day_one = term, day_one or DayOne(1, _POPULARITY_SCHEMA.to_frame(), {})
        self._popular: tuple[int, Mapping[str, float]] = (-1, {})
        self._best: tuple[int, Sequence[str]] = (-1, ())
        self._near: WeakKeyDictionary[Any, Near] = WeakKeyDictionary()
        self._priors: WeakKeyDictionary[Any, tuple[int, Float64[np.ndarray, " item"]]] = WeakKeyDictionary()

    def standing(self, history: Sequence[str], elsewhere: Float[Tensor, "slot dim"] | None = None) -> Standing:
        """Where a customer stands, by the ids of her purchases here, oldest first (any string for an item that the
        catalogue lacks), and the vectors of those in other categories, if known."""
        rung = rung_of(history, range(0 if elsewhere is None else len(elsewhere)))
        bridge, weights = self.day_one.bridge, self.day_one.weights.get(rung, {})
        share = 0.0 if bridge is None or elsewhere is None else weights.get("bridge", 0.0)
        if self.knows_best_sellers_alone(rung):
            share = 1.0
        popularity = weights.get("popularity", 0.0 if share or history else 1.0)
        leads = bridge.weigh(elsewhere.float().mean(0)[None])[0] if share and bridge and elsewhere is not None else None
        everywhere = Everywhere(self, share, leads, popularity) if share or popularity else None
        alike = () if bridge is None or leads is None else bridge.heaviest(leads)
        reason = self._reason(rung, len(history), share)
        return Standing(rung, reason, self.term.bonus(history), share, everywhere, alike)

    def reads_elsewhere(self, history: Sequence[object]) -> bool:
        """Whether purchases in other categories change the scores for this history."""
        rung, bridge = rung_of(history), self.day_one.bridge
        counts = self.knows_best_sellers_alone(rung) or self.day_one.weights.get(rung, {}).get("bridge", 0.0)
        return not history or (bridge is not None and bool(counts))

    def knows_best_sellers_alone(self, rung: Rung) -> bool:
        """Whether customers on a rung get bestsellers, whatever they bought."""
        return rung in ("one", "several") and self.day_one.weights.get(rung, {}).get("text") == 0

    def near(self, bridge: Bridge, vectors: Float[Tensor, "item dim"], whole: object) -> Near:
        """The bridge's leads nearest to items, cached for an unchanging ``whole``."""
        near = (None if whole is None else self._near.get(whole)) or bridge.near(vectors)
        if whole is not None:
            self._near[whole] = near
        return near

    def prior(self, ids: Sequence[str], whole: object) -> Float64[np.ndarray, " item"]:
        """The recent popularity of each item, cached for an unchanging ``whole``."""
        revision, popular = self._popularity()
        known = None if whole is None else self._priors.get(whole)
        if known is None or known[0] != revision:
            known = (revision, np.array([popular.get(item, 0.0) for item in ids]))
            if whole is not None:
                self._priors[whole] = known
        return known[1]

    def most_popular(self) -> Sequence[str]:
        """The ids of recent bestsellers, at most :data:`MOST_POPULAR`."""
        revision, popular = self._popularity()
        if self._best[0] != revision:
            self._best = (revision, nlargest(MOST_POPULAR, popular, key=popular.__getitem__))
        return self._best[1]

    def _popularity(self) -> tuple[int, Mapping[str, float]]:
        if self._popular[0] != (revision := self.term.counts.revision):
            self._popular = (revision, self.day_one.prior(self.term.counts))
        return self._popular

    def _reason(self, rung: Rung, own: int, share: float) -> str:
        popular = "bestsellers first" if self.day_one.half_life_days is None else "recent bestsellers first"
        alike = "what customers with similar purchases there bought here"
        if rung == "none":
            return f"nothing is known about this customer: {popular}"
        if rung == "other":
            if share:
                return f"only purchases in other categories are known: {alike}"
            learned = "they predict no better than bestsellers"
            why = "too few customers of both to learn from" if self.day_one.bridge is None else learned
            return f"only purchases in other categories are known, and {why}: {popular}"
        if self.knows_best_sellers_alone(rung):
            return f"{_known_here(own)}, but all customers get the same: {popular}"
        them = "it" if own == 1 else "them"
        together = f", and bought together with {them}" if self.term.weights.get(rung) else ""
        return f"{_known_here(own)}: items like {them}{together}{f'; and {alike}' if share else ''}"


@cache
def by_text() -> Ladder:
    """The ladder of a model without purchases; not made on import, since Polars would deadlock a forked process."""
    return Ladder(Term(CoPurchases.count(pl.DataFrame(schema={USER: pl.String, ITEM: pl.String}))), None)


def without(popularity: pl.DataFrame, forgotten: Mapping[str, int]) -> pl.DataFrame:
    """Popularity without some purchases, which are assumed to be as old as the others."""
    fewer = pl.col(ITEM).replace_strict(dict(forgotten), default=0, return_dtype=pl.Int64)
    left = (pl.col("bought") - fewer).clip(0)
    share = pl.when(pl.col("bought") > 0).then(left / pl.col("bought")).otherwise(1.0)
    return popularity.with_columns(lately=pl.col("lately") * share, bought=left)


def _known(popularity: pl.DataFrame) -> tuple[dict[str, float], dict[str, int]]:
    ids = popularity[ITEM].to_list()
    lately, bought = (popularity[name].to_list() for name in ("lately", "bought"))
    return dict(zip(ids, lately, strict=True)), dict(zip(ids, bought, strict=True))


def _known_here(own: int) -> str:
    return "one purchase here is known" if own == 1 else f"{own} purchases here are known"


def day_one_of(model: Model) -> DayOne | None:
    """A model's :class:`DayOne`; None if it has none."""
    return next((module for module in model if isinstance(module, DayOne)), None)


def ladder_of(model: Model) -> Ladder | None:
    """A model's ladder; None if it knows no purchases."""
    purchases = purchases_of(model)
    return None if purchases is None else Ladder(purchases.term, day_one_of(model))
