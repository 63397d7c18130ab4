"""The JSON of requests and answers; requests with unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints, ValidationInfo

from xcrossrec.answers import Explanation
from xcrossrec.catalogue import Filters, Purchase, StoredItem
from xcrossrec.catalogue.purchases import LATEST
from xcrossrec.catalogue.stored_item import LONGEST_ID, LONGEST_TITLE, OWN
from xcrossrec.data.text import ItemText
from xcrossrec.exceptions import DataError
from xcrossrec.recommender import Item, Question
from xcrossrec.serving.problems import check_limit
from xcrossrec.types import Scoring

LONGEST_HISTORY_TITLE = 1_000
"""Characters of a title in a history or among candidates, at most; models read fewer."""


def _whole(value: Any) -> Any:
    """Accept 5.0 as an integer, as JSON has one kind of number; refuse 5_0, which only Python accepts."""
    if isinstance(value, str) and "_" in value:
        raise ValueError("write the number without '_'")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
Title: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_HISTORY_TITLE, pattern=r"\S")]
ModelName: TypeAlias = Annotated[
    Id | None, Field(description="A model's name, or its domain's where unique; needed where several are served.")
]


def _few(what: str, setting: str) -> BeforeValidator:
    """Check a list's length before its entries are validated, which may take seconds."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list) and info.context is not None:
            check_limit(what, len(value), getattr(info.context, setting))
        return value

    return BeforeValidator(check)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OfModel(_Answer):
    model: str
    catalog_version: int


# ---- requests


def _only(name: str, other: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"type": "string"}, other: {"type": "null"}}}


class Entry(_Request, json_schema_extra={"oneOf": [_only("item_id", "title"), _only("title", "item_id")]}):
    """An item by its id in the catalogue, or by its title, which the catalogue need not have."""

    item_id: Id | None = None
    title: Title | None = None

    def named(self) -> Item:
        """For the recommender (DataError: both or neither are given)."""
        return Item(self.item_id, self.title)


class FilterConditions(_Request):
    """Conditions that every recommended item meets."""

    category: Annotated[list[Id], Field(min_length=1, fail_fast=True), _few("categories", "candidates")] | None = Field(
        None, description="One of these, exactly."
    )
    in_stock: bool | None = Field(None, description="true: can be bought now.")
    price_min: float | None = Field(None, description="This price or more.")
    price_max: float | None = Field(None, description="This price or less.")


History: TypeAlias = Annotated[
    list[Entry],
    Field(fail_fast=True, description="What was bought, oldest first: ids of the catalogue, or titles."),
    _few("items of the history", "history"),
]


class _Asked(_Request):
    model: ModelName = None
    history: History = []
    user_id: Id | None = Field(
        None, description="A customer: the purchases that the service knows of stand before the history."
    )
    other_history: Annotated[list[Title], Field(fail_fast=True), _few("items of other categories", "history")] = Field(
        [], description="Titles of what was bought in other categories, oldest first, for models that know purchases."
    )

    def _question(self, **rest: Any) -> Question:
        history = [entry.named() for entry in self.history]
        return Question(history, user_id=self.user_id, other_history=self.other_history, **rest)


class RecommendRequest(_Asked):
    """Rank the catalogue, or some of it, for a history."""

    k: Whole = Field(10, ge=1, le=1_000_000, description="How many at most.")
    filters: FilterConditions | None = None
    candidates: Annotated[list[Id], Field(min_length=1, fail_fast=True), _few("candidates", "candidates")] | None = (
        Field(None, description="Ids to choose among; null takes the whole catalogue.")
    )
    include_bought: bool = Field(False, description="Also recommend what is in the history.")
    diversity: Whole | None = Field(
        None, ge=1, description="At most so many items of near-equal titles; null sets no limit."
    )
    explain: bool = Field(False, description="Say why, for every recommended item; costs seconds.")
    skip_unknown: bool = Field(
        False, description="Leave out ids of the history that the catalogue lacks, and name them in `unknown`."
    )

    def question(self) -> Question:
        """For the recommender (DataError: price_min above price_max, or an item with both or no names)."""
        filters = None if self.filters is None else Filters(**self.filters.model_dump())
        names = ("k", "candidates", "include_bought", "skip_unknown", "diversity")
        return self._question(filters=filters, **{name: getattr(self, name) for name in names})


class ScoreRequest(_Asked):
    """Score candidates for a history."""

    candidates: Annotated[list[Entry], Field(min_length=1, fail_fast=True), _few("candidates", "candidates")]

    def question(self) -> Question:
        """For the recommender."""
        return self._question(to_score=[entry.named() for entry in self.candidates])


class ExplainRequest(_Asked):
    """Say why one item has its score."""

    item: Entry

    def question(self) -> Question:
        """For the recommender: asks for the item's score, which is explained then."""
        return self._question(to_score=[self.item.named()])


class ItemToStore(_Request):
    """An item as the catalogue keeps it."""

    item_id: Id
    title: Annotated[str, StringConstraints(max_length=LONGEST_TITLE)]
    category: Id | None = None
    in_stock: bool = True
    price: float | None = Field(None, ge=0, description="In the shop's currency; null where it is unknown.")
    metadata: dict[str, JsonValue] | None = Field(
        None, description="A small object that is given back as it came; models may read of it: brand, description, ..."
    )

    def stored(self, text: ItemText) -> StoredItem:
        """For the catalogue (DataError: a wrong value, or a field that the model reads was not sent)."""
        if lost := text.missing({*self.model_fields_set, *(self.metadata or {})} - {"metadata"}):
            place = f"its {lost[0]}" if lost[0] in OWN else f"metadata with {lost[0]!r}"
            raise DataError(
                f"the item {self.item_id!r} has no {lost[0]!r}, which the model reads as part of its item text "
                f"{text.template!r}: send {place}, null where there is none"
            )
        return StoredItem(**self.model_dump())


class UpsertRequest(_Request):
    """Write items, new ones and others anew: all of them or none."""

    model: ModelName = None
    items: Annotated[list[ItemToStore], Field(min_length=1, fail_fast=True), _few("items", "upsert")]


class DeleteRequest(_Request):
    """Delete items; unknown ids are no error."""

    model: ModelName = None
    ids: Annotated[list[Id], Field(min_length=1, fail_fast=True), _few("ids", "upsert")]


class CustomerBought(_Request):
    """A customer, and what was bought."""

    user_id: Id
    item_id: Id | Annotated[list[Id], Field(min_length=1, fail_fast=True), _few("purchases", "upsert")] = Field(
        description="One item, or several, oldest first."
    )
    timestamp: Whole | None = Field(
        None,
        description="Seconds since 1970; null where unknown.",
        json_schema_extra={"minimum": 0, "exclusiveMaximum": LATEST},  # `Purchase` refuses others, and says why
    )

    @property
    def items(self) -> list[str]:
        """What was bought, as a list."""
        return [self.item_id] if isinstance(self.item_id, str) else self.item_id

    def purchases(self) -> list[Purchase]:
        """For the catalogue (DataError: a value that no purchase may have)."""
        return [Purchase(self.user_id, item_id, self.timestamp) for item_id in self.items]


class PurchasesRequest(_Request):
    """Add purchases, all of them or none; those that are known already change nothing."""

    model: ModelName = None
    purchases: Annotated[list[CustomerBought], Field(min_length=1, fail_fast=True), _few("purchases", "upsert")]
    skip_unknown: bool = Field(
        False, description="Leave out purchases of items that the catalogue lacks, and name these in `unknown`."
    )


class ForgetRequest(_Request):
    """Delete all purchases of a customer; one of whom nothing is known is no error."""

    model: ModelName = None
    user_id: Id


class ReloadRequest(_Request):
    """Replace a model while it serves."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        None, description="The new bundle's folder on the server; null reads the present one again."
    )


# ---- answers


class ExplainAnswer(_OfModel):
    """Why an item has its score."""

    explanation: Explanation
    took_ms: float


class ItemsAnswer(_OfModel):
    """Items whose titles fit a text, the best fitting first."""

    items: list[StoredItem]


class UpsertAnswer(_OfModel):
    """How many items are on disk now; the catalogue's version that shows them."""

    written: int


class DeleteAnswer(_OfModel):
    """How many items were there and are gone."""

    deleted: int


class ForgetAnswer(_OfModel):
    """How many purchases of the customer were known and are gone, from model and catalogue."""

    forgotten: int


class BaseInfo(_Answer):
    """The language model under the adapters."""

    name: str
    digest: str


class CatalogInfo(_Answer):
    """The catalogue behind a model."""

    items: int
    version: int


class ModelInfo(_Answer):
    """A served model; ``report`` says whether there is a page at /report of how it was chosen."""

    name: str
    domain: str | None
    sources: list[str]
    scoring: Scoring
    text: str
    parameters: Mapping[str, Any]
    fingerprint: str
    base: BaseInfo
    created: str | None
    catalog: CatalogInfo
    report: bool


class ModelsAnswer(_Answer):
    """All served models."""

    models: list[ModelInfo]


class StateAnswer(_Answer):
    """The process runs; where it takes requests, the models that it serves."""

    status: str
    models: list[str] | None = None


class ErrorDetail(_Answer):
    """What went wrong: a short name for programs, a sentence for people."""

    code: str
    message: str


class ErrorAnswer(_Answer):
    """Every failure has this form."""

    error: ErrorDetail
