"""Answers as plain values, shared by Python, the service and its client; needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        score: the model's; comparable within one answer.
        rank: from 1, the best.
        category, in_stock, price: from the catalogue; None if unknown.
        explanation: the reasons, if they were asked for.
    """

    item_id: str
    title: str
    score: float
    rank: int
    category: str | None = None
    in_stock: bool = True
    price: float | None = None
    explanation: Explanation | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values; without the key ``explanation`` if there is none."""
        explanation = {"explanation": self.explanation.to_dict()} if self.explanation else {}
        return {**{name: value for name, value in vars(self).items() if name != "explanation"}, **explanation}


@dataclass(frozen=True)
class ItemScore:
    """A candidate's score; ``item_id`` is None for a title that is not in the catalogue."""

    item_id: str | None
    title: str
    score: float


@dataclass(frozen=True)
class Recommendations:
    """The service's recommendations.

    Attributes:
        model: name of the model that answered.
        catalog_version: of the catalogue that was searched; grows with every write.
        items: best first.
        took_ms: time that the server took.
        unknown: unknown ids of the history that were left out, with `skip_unknown`.
        rung: what is known of the customer: ``none`` (nothing), ``other`` (purchases in other categories only), ``one``
            purchase here or ``several``.
        reason: what that means for the answer, in words.
    """

    model: str
    catalog_version: int
    items: tuple[Recommendation, ...]
    took_ms: float
    unknown: tuple[str, ...] | None = None
    rung: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Scores:
    """The service's scores, in the order of the candidates; see :class:`Recommendations`."""

    model: str
    catalog_version: int
    scores: tuple[ItemScore, ...]
    took_ms: float
    rung: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class AddedPurchases:
    """The result of sending purchases.

    Attributes:
        model: name of the model whose catalogue has them.
        catalog_version: the first version with them.
        added: how many were new.
        unknown: unknown item ids that were left out, with `skip_unknown`.
    """

    model: str
    catalog_version: int
    added: int
    unknown: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HistoryMatch:
    """The relation of one history item to a recommended one.

    Attributes:
        item_id: id in the catalogue; None for a free title.
        cosine: of the vectors of both items; None for a `pair` model, which does not encode single items.
        share: of the soft maximum, between 0 and 1; the shares of a history sum to 1. None for a `pair` model.
        effect: score minus the score of the history without this item; None for the only item.
        bought_together: customers who bought both; None if one is a free title, or the model knows no purchases.
    """

    item_id: str | None
    title: str
    cosine: float | None
    share: float | None
    effect: float | None
    bought_together: int | None = None


@dataclass(frozen=True)
class LayerShare:
    """The contribution of one source to the other streams at one layer.

    Attributes:
        layer: of the base's layers; 1 is the lowest.
        effect: score minus the score without this contribution.
        coefficient: mean absolute mixing coefficient of the contribution, over the texts' tokens.
    """

    layer: int
    source: str
    effect: float
    coefficient: float


@dataclass(frozen=True)
class SourceShare:
    """The contribution of one source over all layers.

    Attributes:
        effect: score minus the score without its contribution to the other streams; 0 if there is one stream.
        stream_weight: its weight in the final sum, or in the one stream's update; signed.
        stream_share: absolute weight over the sum of absolute weights.
        stream_effect: score minus the score when it is left out of the final sum, or of the one stream's update.
    """

    source: str
    effect: float
    stream_weight: float
    stream_share: float
    stream_effect: float


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score.

    Attributes:
        item_id: of the explained item; None for a free title.
        score: as in :meth:`Recommender.recommend`.
        matches: the history's items, oldest first.
        sources: one entry for each source; empty for a model without integration.
        layers: one entry for each layer and source, lowest layer first; empty for a model with one stream.
        integration_effect: score minus the score without any integration; None for a model with one stream.
        copurchase_effect: score minus that of the text alone; None for a model that knows no purchases.
        reasons: sentences that explain the score instead, for a customer without known purchases here.
    """

    item_id: str | None
    title: str
    score: float
    matches: tuple[HistoryMatch, ...]
    sources: tuple[SourceShare, ...] = ()
    layers: tuple[LayerShare, ...] = ()
    integration_effect: float | None = None
    copurchase_effect: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def best_match(self) -> HistoryMatch:
        """The history item that counts most: by share, else by effect; by effect if co-purchases count.

        ValueError: no purchase of the customer is known.
        """
        return max(self.matches, key=self._importance)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.reasons:
            return "\n".join(self.reasons)
        added = [f"Co-purchases add {self.copurchase_effect:+.3f}."] if self.copurchase_effect else []
        ordered = sorted(self.matches, key=self._importance, reverse=True)
        starts = ("Best match in the history:", "Then:", "Then:")
        matched = [f"{start} {_match_text(match)}." for start, match in zip(starts, ordered, strict=False)]
        return "\n".join([*matched, *added, *self._source_sentences()])

    def _importance(self, match: HistoryMatch) -> float:
        by_text = (match.share, match.effect, match.cosine)
        values = (match.effect, *by_text) if self.copurchase_effect else by_text
        return next((value for value in values if value is not None), 0.0)

    def _source_sentences(self) -> list[str]:
        if not self.sources:
            return ["This model combines no other categories."]
        if self.integration_effect is None:
            parts = [f"{share.source} {share.stream_effect:+.3f}" for share in self.sources]
            return [f"The sources are merged; what each adds to the score of {self.score:.3f}: {', '.join(parts)}."]
        parts = [
            f"{share.source} {share.effect:+.3f} (final weight {share.stream_weight:.2f}, {share.stream_share:.0%})"
            for share in self.sources
        ]
        sentences = [
            f"Integration moves the score of {self.score:.3f} by {self.integration_effect:+.3f}; "
            f"what each source gives to the others: {', '.join(parts)}."
        ]
        strongest = max(self.layers, key=lambda share: abs(share.effect))
        if strongest.effect != 0.0:
            sentences.append(
                f"Largest single effect: {strongest.source} at layer {strongest.layer} ({strongest.effect:+.3f}, "
                f"mean absolute coefficient {strongest.coefficient:.3f})."
            )
        return sentences


def customers(count: int) -> str:
    """A number of customers in words."""
    return f"{count:,} customer{'s' if count != 1 else ''}"


def _match_text(match: HistoryMatch) -> str:
    parts = []
    if match.share is not None:
        parts.append(f"{match.share:.0%} of the match")
    if match.cosine is not None:
        parts.append(f"similarity {match.cosine:.2f}")
    if match.effect is not None:
        parts.append(f"{match.effect:+.3f} to the score")
    if match.bought_together:
        parts.append(f"bought together by {customers(match.bought_together)}")
    return f"{match.title}" + (f" ({', '.join(parts)})" if parts else "")
