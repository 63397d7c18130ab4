"""The questions that can be put to the service: the methods of both clients, but for the waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from xcrossrec.answers import Explanation, Recommendations, Scores
from xcrossrec.client.answers import StoredItem, read
from xcrossrec.exceptions import ConfigError
from xcrossrec.filters import Filters

T = TypeVar("T")

HistoryEntry: TypeAlias = str | Mapping[str, str]
"""An id or a title: a mapping with ``id`` or ``title``, or a string; ``id:...`` and ``title:...`` say which is meant,
any other string is a title if it has more than one word, and an id if it has not."""

Details: TypeAlias = Mapping[str, Any]
"""A JSON object as it came."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question, and how its answer is read.

    Attributes:
        method: of HTTP.
        path: below the service's address.
        read: takes the answer's JSON; raises :class:`ServiceError` if it is another's.
        body: JSON to send.
        query: parameters of the address.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    body: Details | None = None
    query: Mapping[str, str] | None = None


def recommend(
    history: Sequence[HistoryEntry],
    k: int = 10,
    *,
    model: str | None = None,
    filters: Filters | None = None,
    candidates: Sequence[str] | None = None,
    include_bought: bool = False,
    explain: bool = False,
    skip_unknown: bool = False,
) -> Call[Recommendations]:
    """Rank a model's catalogue, or some of it, for a history.

    Args:
        history: ids and titles, oldest first; see :data:`HistoryEntry`.
        k: how many at most.
        model: its name or its domain's; may be left out where the service has one model.
        filters: conditions that every recommended item meets.
        candidates: item ids to choose from; None takes the whole catalogue.
        include_bought: also recommend what is in the history.
        explain: give the reasons with each item; costs many encoder passes.
        skip_unknown: leave out ids of the history that the catalogue lacks; the answer names them.

    Raises:
        ServiceError: refused, busy for too long, failed, or no answer.
    """
    body = {
        **_given(
            model=model,
            filters=None if filters is None else _conditions(filters),
            candidates=None if candidates is None else list(candidates),
        ),
        "history": _entries(history),
        "k": k,
        "include_bought": include_bought,
        "explain": explain,
        "skip_unknown": skip_unknown,
    }
    return Call("POST", "v1/recommend", lambda answer: read(Recommendations, answer), body)


def score(
    history: Sequence[HistoryEntry], candidates: Sequence[HistoryEntry], *, model: str | None = None
) -> Call[Scores]:
    """Score candidates, ids or titles, for a history."""
    body = {**_given(model=model), "history": _entries(history), "candidates": _entries(candidates)}
    return Call("POST", "v1/score", lambda answer: read(Scores, answer), body)


def explain(history: Sequence[HistoryEntry], item: HistoryEntry, *, model: str | None = None) -> Call[Explanation]:
    """Say why an item has its score for a history."""
    body = {**_given(model=model), "history": _entries(history), "item": _entry(item)}
    return Call("POST", "v1/explain", lambda answer: read(Explanation, answer, "explanation"), body)


def find_items(query: str, limit: int = 10, *, model: str | None = None) -> Call[tuple[StoredItem, ...]]:
    """Search the titles of a model's catalogue."""
    asked = {**_given(model=model), "query": query, "limit": str(limit)}
    return Call("GET", "v1/items", lambda answer: read(tuple[StoredItem, ...], answer, "items"), query=asked)


def put_items(items: Sequence[StoredItem], *, model: str | None = None) -> Call[int]:
    """Insert or replace items; on disk when this returns, all of them or none. Needs an admin key.

    Returns:
        how many were written.
    """
    body = {**_given(model=model), "items": [_given(**vars(item)) for item in items]}
    return Call("PUT", "v1/items", lambda answer: read(int, answer, "written"), body)


def delete_items(ids: Sequence[str], *, model: str | None = None) -> Call[int]:
    """Delete items; on disk when this returns. Needs an admin key.

    Returns:
        how many there were.
    """
    body = {**_given(model=model), "ids": list(ids)}
    return Call("DELETE", "v1/items", lambda answer: read(int, answer, "deleted"), body)


def model(name: str | None = None) -> Call[Details]:
    """Describe one model: sources, parameters, fingerprint, catalogue."""
    return Call("GET", "v1/model", lambda answer: read(Details, answer), query=_given(name=name))


def models() -> Call[tuple[Details, ...]]:
    """Describe every model of the service."""
    return Call("GET", "v1/models", lambda answer: read(tuple[Details, ...], answer, "models"))


def reload(name: str, path: str | None = None) -> Call[Details]:
    """Replace a model while it serves. Needs an admin key.

    Args:
        name: of the model.
        path: the new bundle's folder on the server; None reads the present one again.
    """
    body = _given(path=path)
    return Call("POST", f"v1/models/{quote(name, safe='')}/reload", lambda answer: read(Details, answer), body)


def _entries(history: Sequence[HistoryEntry]) -> list[dict[str, str]]:
    if isinstance(history, (str, Mapping)):
        raise ConfigError(f"expected a list of ids and titles, got {history!r}: put it into a list")
    return [_entry(entry) for entry in history]


def _entry(entry: HistoryEntry) -> dict[str, str]:
    """Write an entry as the service reads it.

    Raises:
        ConfigError: it is neither an id nor a title.
    """
    if isinstance(entry, str):
        kind, colon, named = entry.partition(":")
        if colon and kind in ("id", "title"):
            return {kind: named}
        return {"title": entry} if len(entry.split()) > 1 else {"id": entry}
    if isinstance(entry, Mapping) and len(entry) == 1 and set(entry) <= {"id", "title"}:
        return dict(entry)
    raise ConfigError(f"expected an id, a title or a mapping with 'id' or 'title', got {entry!r}: give one of these")


def _conditions(filters: Filters) -> dict[str, Any]:
    return _given(**{**vars(filters), "category": filters.category and list(filters.category)})


def _given(**values: Any) -> dict[str, Any]:
    """Only what is not None."""
    return {name: value for name, value in values.items() if value is not None}
