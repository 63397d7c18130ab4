"""What the service takes and gives as JSON; every request refuses keys that it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, StringConstraints, Tag

from xcrossrec.answers import Explanation
from xcrossrec.catalogue import Filters
from xcrossrec.catalogue.stored_item import LONGEST_ID, LONGEST_TITLE
from xcrossrec.recommender import Item as NamedItem
from xcrossrec.recommender import Question
from xcrossrec.types import Scoring

LONGEST_HISTORY_TITLE = 1_000
"""Characters of a title in a history or among candidates, at most; models read fewer."""

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
Title: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_HISTORY_TITLE, pattern=r"\S")]
ModelName: TypeAlias = Annotated[
    Id | None,
    Field(description="A model's name, or its domain's where unique; needed where several are served."),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---- requests


class ItemById(_Request):
    """An item of the catalogue."""

    id: Id

    def named(self) -> NamedItem:
        """As a recommender takes it."""
        return NamedItem(item_id=self.id)


class ItemByTitle(_Request):
    """An item by its title, which the catalogue need not have."""

    title: Title

    def named(self) -> NamedItem:
        """As a recommender takes it."""
        return NamedItem(title=self.title)


def _reading(entry: Any) -> str:
    """Which of the two an entry is meant to be, so that only that one's mistakes are named."""
    named = entry.keys() if isinstance(entry, Mapping) else vars(entry) if isinstance(entry, BaseModel) else ()
    return BY_ID if "id" in named else BY_TITLE


BY_ID, BY_TITLE = "(by id)", "(by title)"
Entry: TypeAlias = Annotated[
    Annotated[ItemById, Tag(BY_ID)] | Annotated[ItemByTitle, Tag(BY_TITLE)], Discriminator(_reading)
]


class FilterConditions(_Request):
    """Conditions that every recommended item meets."""

    category: Annotated[list[Id], Field(min_length=1)] | None = Field(None, description="One of these, exactly.")
    in_stock: bool | None = Field(None, description="true: can be bought now.")
    price_min: float | None = Field(None, description="This price or more.")
    price_max: float | None = Field(None, description="This price or less.")


History: TypeAlias = Annotated[
    list[Entry], Field(min_length=1, description="What was bought, oldest first: ids of the catalogue, or titles.")
]


class RecommendRequest(_Request):
    """Rank the catalogue, or some of it, for a history."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": [{"id": "B0012"}, {"title": "Wooden train set"}], "k": 5},
                {"history": [{"title": "Wooden train set"}], "filters": {"in_stock": True, "price_max": 30}},
            ]
        }
    )

    model: ModelName = None
    history: History
    k: int = Field(10, ge=1, le=1_000_000, description="How many at most.")
    filters: FilterConditions | None = None
    candidates: Annotated[list[Id], Field(min_length=1)] | None = Field(
        None, description="Ids to choose among; null takes the whole catalogue."
    )
    include_bought: bool = Field(False, description="Also recommend what is in the history.")
    explain: bool = Field(False, description="Say why, for every recommended item; costs seconds.")
    skip_unknown: bool = Field(
        False, description="Leave out ids of the history that the catalogue lacks, and name them in `unknown`."
    )

    def question(self) -> Question:
        """As a recommender takes it.

        Raises:
            DataError: prices that leave no room.
        """
        filters = None if self.filters is None else Filters(**self.filters.model_dump())
        history = [entry.named() for entry in self.history]
        return Question(history, self.k, filters, self.candidates, self.include_bought, self.skip_unknown)


class ScoreRequest(_Request):
    """Score candidates for a history."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"history": [{"id": "B0012"}], "candidates": [{"id": "B0013"}, {"title": "Train track"}]}]
        }
    )

    model: ModelName = None
    history: History
    candidates: Annotated[list[Entry], Field(min_length=1)]

    def question(self) -> Question:
        """As a recommender takes it."""
        return Question([e.named() for e in self.history], to_score=[e.named() for e in self.candidates])


class ExplainRequest(_Request):
    """Say why one item has its score."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": [{"title": "Wooden train set"}], "item": {"id": "B0013"}}]}
    )

    model: ModelName = None
    history: History
    item: Entry

    def question(self) -> Question:
        """As a recommender takes it: the item's score, which is explained then."""
        return Question([entry.named() for entry in self.history], to_score=[self.item.named()])


class ItemToStore(_Request):
    """An item as the catalogue keeps it."""

    item_id: Id
    title: Annotated[str, StringConstraints(max_length=LONGEST_TITLE)]
    category: Id | None = None
    in_stock: bool = True
    price: float | None = Field(None, ge=0, description="In the shop's currency; null where it is unknown.")
    metadata: dict[str, JsonValue] | None = Field(None, description="A small object that is given back as it came.")


class UpsertRequest(_Request):
    """Write items, new ones and others anew: all of them or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"item_id": "B0014", "title": "Train bridge", "category": "trains", "price": 9.5}]}]
        }
    )

    model: ModelName = None
    items: Annotated[list[ItemToStore], Field(min_length=1)]


class DeleteRequest(_Request):
    """Delete items; unknown ids are no error."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["B0014"]}]})

    model: ModelName = None
    ids: Annotated[list[Id], Field(min_length=1)]


class ReloadRequest(_Request):
    """Replace a model while it serves."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "/srv/models/toys-2"}]})

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        None, description="The new bundle's folder on the server; null reads the present one again."
    )


# ---- answers


class ExplainAnswer(_Answer):
    """Why an item has its score."""

    model: str
    catalog_version: int
    explanation: Explanation
    took_ms: float


class Item(_Answer):
    """An item as the catalogue keeps it."""

    item_id: str
    title: str
    category: str | None
    in_stock: bool
    price: float | None
    metadata: Mapping[str, Any] | None


class ItemsAnswer(_Answer):
    """Items whose titles fit a text, the best fitting first."""

    model: str
    catalog_version: int
    items: list[Item]


class UpsertAnswer(_Answer):
    """How many items are on disk now; the catalogue's version that shows them."""

    model: str
    catalog_version: int
    written: int


class DeleteAnswer(_Answer):
    """How many items were there and are gone."""

    model: str
    catalog_version: int
    deleted: int


class BaseInfo(_Answer):
    """The language model under the adapters."""

    name: str
    digest: str


class CatalogInfo(_Answer):
    """The catalogue behind a model."""

    items: int
    version: int


class ModelInfo(_Answer):
    """A served model."""

    name: str
    domain: str | None
    sources: list[str]
    scoring: Scoring
    parameters: Mapping[str, Any]
    fingerprint: str
    base: BaseInfo
    created: str | None
    catalog: CatalogInfo


class ModelsAnswer(_Answer):
    """All served models."""

    models: list[ModelInfo]


class HealthAnswer(_Answer):
    """The process runs."""

    status: str


class ReadyAnswer(_Answer):
    """The service takes requests."""

    status: str
    models: list[str]


class ErrorDetail(_Answer):
    """What went wrong: a short name for programs, a sentence for people."""

    code: str
    message: str


class ErrorAnswer(_Answer):
    """Every failure has this form."""

    error: ErrorDetail
