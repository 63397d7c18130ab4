"""Adds purchases to a model: counts them, and chooses their weight in the score by cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import torch
from jaxtyping import Float32
from torch import Tensor

from xcrossrec.copurchase import CoPurchases
from xcrossrec.copurchase.weight import Choice, TextScores, choose_weights
from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.models.dual import DualScorer
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import check_knows, with_counts
from xcrossrec.types import ITEM, USER

MOST_TEXTS = 20_000
"""Items whose texts are read to choose the weights, at most."""


def with_purchases(
    model: Model, domain: Domain, users: Sequences, *, seed: int = 0, vectors: Float32[Tensor, "item dim"] | None = None
) -> tuple[Model, Choice]:
    """Add what a domain's users bought to a model, and choose its weight relative to the text score.

    At most twice as many texts are read as there are purchases, so that a training takes hardly longer.

    Args:
        model: `dual`, trained or not; changed in place.
        domain: gives items and their texts.
        users: whose purchases are counted; each part of them is set aside in turn for the choice.
        vectors: the catalogue's, if already known (of a model without a history prompt of its own).

    Raises:
        ModelError: a `pair` model.
    """
    check_knows(model)
    ids = domain.items[ITEM].to_list()
    sequences = [[ids[row] for row in rows] for rows in users.rows]
    counts, most = counted(domain, users), min(MOST_TEXTS, 2 * sum(map(len, sequences)))
    texts = dict(zip(ids, domain.texts, strict=True))
    known = None if vectors is None else dict(zip(ids, vectors, strict=True))
    choice = weighed(model, sequences, texts, most_texts=most, seed=seed, known=known)
    return with_counts(model, counts, choice.weights), choice


def counted(domain: Domain, users: Sequences) -> CoPurchases:
    """Count what some users of a domain bought."""
    ids = domain.items[ITEM].to_list()
    rows = [(user, ids[row]) for user, items in zip(users.user_ids, users.rows, strict=True) for row in items]
    return CoPurchases.count(pl.DataFrame(rows, schema={USER: pl.String, ITEM: pl.String}, orient="row"))


def weighed(
    model: Model,
    sequences: Sequence[Sequence[str]],
    texts: Mapping[str, str],
    *,
    most_texts: int,
    seed: int,
    known: Mapping[str, Float32[Tensor, " dim"]] | None = None,
) -> Choice:
    """Choose the weights of co-purchases beside a model's text score; see :func:`choose_weights`.

    Args:
        sequences: each customer's item ids, oldest first; those without a text are left out.
        texts: of the catalogue's items, by id, as the model reads them.
        known: the items' vectors by id; none of them, or all.
    """

    def read(items: Sequence[str]) -> TextScores:
        vectors = torch.stack([known[item] for item in items]) if known and items else None
        return DualScorer(model, [texts[item] for item in items], vectors=vectors).score

    bought = [[item for item in sequence if item in texts] for sequence in sequences]
    return choose_weights(bought, list(texts), read, most_texts=most_texts, seed=seed)
