"""The requests to the service: the methods of both clients, without sending and waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from xcrossrec.answers import AddedPurchases, Explanation, Recommendations, Scores
from xcrossrec.client.answers import Purchase, StoredItem
from xcrossrec.exceptions import ConfigError
from xcrossrec.filters import Filters

T = TypeVar("T")

HistoryEntry: TypeAlias = str | Mapping[str, str]
"""An id or a title: a mapping with ``item_id`` or ``title``, or a string. ``id:...`` and ``title:...`` are explicit;
any other string is a title if it has more than one word, otherwise an id."""

Details: TypeAlias = Mapping[str, Any]
"""A JSON object."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and the type of its answer.

    Attributes:
        answer: type of the answer, or of one key of it.
        key: this key.
    """

    method: str
    path: str
    answer: Any
    key: str | None = None
    body: Details | None = None
    query: Mapping[str, str] | None = None


class Questions:
    """Makes the :class:`Call` of each request."""

    def recommend(
        self,
        history: Sequence[HistoryEntry] = (),
        k: int = 10,
        *,
        model: str | None = None,
        filters: Filters | None = None,
        candidates: Sequence[str] | None = None,
        include_bought: bool = False,
        explain: bool = False,
        skip_unknown: bool = False,
        diversity: int | None = None,
        user_id: str | None = None,
        other_history: Sequence[str] = (),
    ) -> Call[Recommendations]:
        """Rank a model's catalogue, or some of it, for a history.

        Args:
            history: ids and titles, oldest first; see :data:`HistoryEntry`.
            k: how many at most.
            model: its name or its domain's; optional if the service has one model.
            filters: conditions that every recommended item meets.
            candidates: item ids to choose from; None is the whole catalogue.
            include_bought: also recommend what is in the history.
            explain: add the reasons to each item; needs many encoder passes.
            skip_unknown: leave out unknown ids of the history; the answer lists them.
            diversity: at most so many items of near-equal titles.
            user_id: a customer, whose known purchases are put before the history.
            other_history: titles of what was bought in other categories, oldest first.

        Raises:
            ServiceError: refused, busy for too long, failed, or no answer.
            ConfigError: what no request can carry.
        """
        rest = _given(
            k=k,
            filters=filters and _given(**{**vars(filters), "category": filters.category and list(filters.category)}),
            candidates=None if candidates is None else list(candidates),
            include_bought=include_bought,
            explain=explain,
            skip_unknown=skip_unknown,
            diversity=diversity,
        )
        body = {**_asked(model, history, user_id, other_history), **rest}
        return Call("POST", "v1/recommend", Recommendations, body=body)

    def score(
        self,
        history: Sequence[HistoryEntry],
        candidates: Sequence[HistoryEntry],
        *,
        model: str | None = None,
        user_id: str | None = None,
        other_history: Sequence[str] = (),
    ) -> Call[Scores]:
        """Score candidates, ids or titles, for a history; see :meth:`recommend`."""
        asked = _asked(model, history, user_id, other_history)
        return Call("POST", "v1/score", Scores, body={**asked, "candidates": _entries(candidates)})

    def explain(
        self,
        history: Sequence[HistoryEntry],
        item: HistoryEntry,
        *,
        model: str | None = None,
        user_id: str | None = None,
        other_history: Sequence[str] = (),
    ) -> Call[Explanation]:
        """Say why an item has its score for a history; see :meth:`recommend`."""
        asked = _asked(model, history, user_id, other_history)
        return Call("POST", "v1/explain", Explanation, "explanation", body={**asked, "item": _entry(item)})

    def find_items(self, query: str, limit: int = 10, *, model: str | None = None) -> Call[tuple[StoredItem, ...]]:
        """Search the titles of a model's catalogue, and its ids for an exact match."""
        asked = _given(model=model, query=query, limit=str(limit))
        return Call("GET", "v1/items", tuple[StoredItem, ...], "items", query=asked)

    def put_items(self, items: Sequence[StoredItem], *, model: str | None = None) -> Call[int]:
        """Insert or replace items, all or none; on disk when this returns. Returns their number. Needs an admin key."""
        body = _given(model=model, items=[_given(**vars(item)) for item in items])
        return Call("PUT", "v1/items", int, "written", body=body)

    def delete_items(self, ids: Sequence[str], *, model: str | None = None) -> Call[int]:
        """Delete items; gone from disk when this returns. Returns how many existed. Needs an admin key."""
        body = _given(model=model, ids=list(ids))
        return Call("DELETE", "v1/items", int, "deleted", body=body)

    def add_purchases(
        self, purchases: Sequence[Purchase], *, model: str | None = None, skip_unknown: bool = False
    ) -> Call[AddedPurchases]:
        """Add purchases, all or none; on disk, and used by every answer, when this returns. Needs an admin key.

        Known purchases change nothing, so the same ones may be sent again.

        Args:
            purchases: those of a customer in order.
            model: its name or its domain's; optional if the service has one model.
            skip_unknown: leave out purchases of unknown items; the answer lists these.
        """
        items = [each.item_id if isinstance(each.item_id, str) else list(each.item_id) for each in purchases]
        sent = [_given(**{**vars(each), "item_id": own}) for each, own in zip(purchases, items, strict=True)]
        body = _given(model=model, purchases=sent, skip_unknown=skip_unknown)
        return Call("POST", "v1/purchases", AddedPurchases, body=body)

    def forget(self, user_id: str, *, model: str | None = None) -> Call[int]:
        """Delete all purchases of a customer, on disk and in every answer when this returns. Needs an admin key.

        Returns how many were known.
        """
        return Call("DELETE", "v1/purchases", int, "forgotten", body=_given(model=model, user_id=user_id))

    def model(self, name: str | None = None) -> Call[Details]:
        """Describe one model: sources, parameters, fingerprint, catalogue."""
        return Call("GET", "v1/model", Details, query=_given(name=name))

    def models(self) -> Call[tuple[Details, ...]]:
        """Describe every model of the service."""
        return Call("GET", "v1/models", tuple[Details, ...], "models")

    def reload(self, name: str, path: str | None = None) -> Call[Details]:
        """Replace a model by the bundle in a folder of the server; None reloads its own. Needs an admin key."""
        place = quote(name, safe="", errors="surrogatepass")
        return Call("POST", f"v1/models/{place}/reload", Details, body=_given(path=path))


def _asked(
    model: str | None, history: Sequence[HistoryEntry], user_id: str | None, other_history: Sequence[str]
) -> dict[str, Any]:
    elsewhere = list(other_history) or None
    return _given(model=model, history=_entries(history), user_id=user_id, other_history=elsewhere)


def _entries(history: Sequence[HistoryEntry]) -> list[dict[str, str]]:
    if isinstance(history, (str, Mapping)):
        raise ConfigError(f"expected a list of ids and titles, got {history!r}: put it into a list")
    return [_entry(entry) for entry in history]


def _entry(entry: HistoryEntry) -> dict[str, str]:
    if isinstance(entry, str):
        kind, colon, named = entry.partition(":")
        if colon and kind in ("id", "title"):
            return {"item_id" if kind == "id" else kind: named}
        from xcrossrec.data.text import spaced  # which brings polars, that a client needs for nothing else

        return {"title": entry} if len(spaced(entry).split()) > 1 else {"item_id": entry}
    if isinstance(entry, Mapping) and len(entry) == 1 and set(entry) <= {"item_id", "title"}:
        return dict(entry)
    raise ConfigError(
        f"expected an id, a title or a mapping with 'item_id' or 'title', got {entry!r}: give one of these"
    )


def _given(**values: Any) -> dict[str, Any]:
    """Only what is not None."""
    return {name: value for name, value in values.items() if value is not None}
