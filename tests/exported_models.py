"""Models that have all that a `dual` model may have, for the tests of exports."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch

from model_families import randomise
from xcrossrec.copurchase import CoPurchases
from xcrossrec.models import bundle
from xcrossrec.models.day_one import DayOne
from xcrossrec.models.dual import vector_dim
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.models.purchases import with_counts

TITLES = [f"{colour} {thing}" for colour in ("red", "blue", "green", "old") for thing in ("train", "drill", "tape")]
IDS = [f"i{number}" for number in range(len(TITLES))]
SEQUENCES = {f"u{user}": [f"i{(user * 5 + step * step) % 12}" for step in range(4)] for user in range(9)}


def table(sequences: dict[str, list[str]]) -> pl.DataFrame:
    rows = [(user, item, place) for user, items in sequences.items() for place, item in enumerate(items)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")


def with_everything(model: Model) -> Model:
    """Scale, center, projection, learned matcher, co-purchases and popularity."""
    encoder = encoder_of(model)
    if hasattr(encoder, "scale"):
        encoder.scale.data.fill_(1.3)
    model = kind_of(model).with_projection(kind_of(model).centered(model, TITLES), 3, 0)
    randomise(model, "up", 0.4)
    matcher = matcher_of(model)
    matcher.log_recency.data.copy_(torch.linspace(0.0, -2.0, 8))
    matcher.log_sharpness.data.fill_(2.0)
    model = with_counts(model, CoPurchases.count(table(SEQUENCES)), {"one": 2.0, "several": 3.0})
    popularity = pl.DataFrame({"item_id": IDS[:5], "lately": [0.5, 3.0, 1.0, 0.1, 2.0], "bought": [1, 3, 1, 1, 2]})
    day_one = DayOne(vector_dim(model), popularity, {"none": {"popularity": 0.7}})
    return kind_of(model).assemble([*model, day_one]).eval()


def saved(model: Model, path: Path) -> Path:
    bundle.save(model, path, {"kind": "target", "domain": None})
    return path
