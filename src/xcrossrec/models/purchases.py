"""What is bought with what, as a part of a `dual` model: kept, loaded and hashed with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

import polars as pl
from pydantic import Field

from xcrossrec.copurchase import CoPurchases, Term
from xcrossrec.data.store import read_parquet
from xcrossrec.exceptions import BundleError, ModelError
from xcrossrec.models.files import Settings, read_settings
from xcrossrec.models.heads import Head
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model
from xcrossrec.scoring import Rung
from xcrossrec.types import ITEM, USER

TABLE = "purchases.parquet"

Weight: TypeAlias = Annotated[float, Field(ge=0, le=100)]


class RungSettings(Settings):
    """What counts how much for customers of whom so much is known."""

    copurchase: Weight


class PurchasesSettings(Settings):
    """The ladder."""

    rungs: dict[Rung, RungSettings]


class Purchases(Head):
    """The customers' purchases and the weight of what they say; a text's vector passes through.

    Args:
        counts: of purchases, or their table by hashed users (:meth:`CoPurchases.table`), which is counted when it is
            first needed.
        weights: of the counts' scores, by rung.
    """

    config_keys: list[str] = ["rungs"]  # noqa: RUF012 - sentence-transformers' own convention
    config_file_name = "purchases.json"

    def __init__(self, counts: CoPurchases | pl.DataFrame, weights: Mapping[Rung, float]) -> None:
        super().__init__()
        self._given = counts
        self.weights = dict(weights)

    @property
    def rungs(self) -> dict[str, dict[str, float]]:
        """The settings, as they are kept."""
        return {rung: {"copurchase": weight} for rung, weight in self.weights.items()}

    @cached_property
    def term(self) -> Term:
        """What is added to a text score."""
        given = self._given
        counts = given if isinstance(given, CoPurchases) else CoPurchases.count(given, hashed=True)
        return Term(counts, self.weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of the model shares the counts."""
        return type(self)(self._given, self.weights)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write settings and purchases."""
        self.save_config(output_path)
        table = self._given if isinstance(self._given, pl.DataFrame) else self._given.table()
        table.write_parquet(Path(output_path) / TABLE)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Read back (BundleError: a weight out of its bounds, or a table of other columns)."""
        folder = Path(model_name_or_path) / subfolder
        found = read_settings(folder / cls.config_file_name, PurchasesSettings)
        table = read_parquet(folder / TABLE, remedy="copy or train the model again")
        if dict(table.schema) != {USER: pl.String, ITEM: pl.String} or any(table.null_count().row(0)):
            raise BundleError(f"{folder / TABLE} is no table of {USER} and {ITEM}: copy or train the model again")
        return cls(table, {rung: each["copurchase"] for rung, each in found["rungs"].items()})


def purchases_of(model: Model) -> Purchases | None:
    """The purchases that a model holds; None where there are none, as in every `pair` model."""
    return next((module for module in model if isinstance(module, Purchases)), None)


def with_counts(model: Model, counts: CoPurchases, weights: Mapping[Rung, float]) -> Model:
    """Let a model, which is taken over, know purchases, in the place of those it knew; see :func:`check_knows`."""
    check_knows(model)
    new, former = Purchases(counts, weights), purchases_of(model)
    modules = [new if module is former else module for module in model]
    return kind_of(model).assemble(modules if former is not None else [*modules, new])


def check_knows(model: Model) -> None:
    """Refuse a `pair` model (ModelError), which can know no purchases: its scores are of another scale."""
    if kind_of(model).name != "dual":
        raise ModelError("a pair model knows no purchases: train one with --scoring dual")


def term_of(model: Model) -> Term | None:
    """What a model adds to the text score; None where that is nothing."""
    purchases = purchases_of(model)
    return None if purchases is None else purchases.term
