"""The questions that can be put to the service, the same for both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from xcrossrec.answers import Explanation
from xcrossrec.client.answers import Filters, Recommendations, Scores, StoredItem, read
from xcrossrec.exceptions import ConfigError

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
    k: int,
    *,
    model: str | None,
    filters: Filters | None,
    candidates: Sequence[str] | None,
    include_bought: bool,
    explain: bool,
) -> Call[Recommendations]:
    """Rank a catalogue for a history."""
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
    }
    return Call("POST", "v1/recommend", lambda answer: read(Recommendations, answer), body)


def score(history: Sequence[HistoryEntry], candidates: Sequence[HistoryEntry], model: str | None) -> Call[Scores]:
    """Score candidates for a history."""
    body = {**_given(model=model), "history": _entries(history), "candidates": _entries(candidates)}
    return Call("POST", "v1/score", lambda answer: read(Scores, answer), body)


def explain(history: Sequence[HistoryEntry], item: HistoryEntry, model: str | None) -> Call[Explanation]:
    """Say why an item has its score."""
    body = {**_given(model=model), "history": _entries(history), "item": _entry(item)}
    return Call("POST", "v1/explain", lambda answer: read(Explanation, answer, "explanation"), body)


def find_items(query: str, limit: int, model: str | None) -> Call[tuple[StoredItem, ...]]:
    """Search the catalogue's titles."""
    asked = {**_given(model=model), "query": query, "limit": str(limit)}
    return Call("GET", "v1/items", lambda answer: read(tuple[StoredItem, ...], answer, "items"), query=asked)


def put_items(items: Sequence[StoredItem], model: str | None) -> Call[int]:
    """Insert or replace items."""
    body = {**_given(model=model), "items": [_given(**vars(item)) for item in items]}
    return Call("PUT", "v1/items", lambda answer: read(int, answer, "written"), body)


def delete_items(ids: Sequence[str], model: str | None) -> Call[int]:
    """Delete items."""
    body = {**_given(model=model), "ids": list(ids)}
    return Call("DELETE", "v1/items", lambda answer: read(int, answer, "deleted"), body)


def model(name: str | None) -> Call[Details]:
    """Describe one model."""
    return Call("GET", "v1/model", lambda answer: read(Details, answer), query=_given(name=name))


def models() -> Call[tuple[Details, ...]]:
    """Describe all models."""
    return Call("GET", "v1/models", lambda answer: read(tuple[Details, ...], answer, "models"))


def reload(name: str, path: str | None) -> Call[Details]:
    """Replace a model without dropping a request."""
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
        for kind in ("id", "title"):
            if entry.startswith(f"{kind}:"):
                return {kind: entry.removeprefix(f"{kind}:")}
        return {"title": entry} if len(entry.split()) > 1 else {"id": entry}
    if isinstance(entry, Mapping) and len(entry) == 1 and set(entry) <= {"id", "title"}:
        return dict(entry)
    raise ConfigError(f"expected an id, a title or a mapping with 'id' or 'title', got {entry!r}: give one of these")


def _conditions(filters: Filters) -> dict[str, Any]:
    category = None if filters.category is None else list(filters.category)
    return _given(**{**vars(filters), "category": category})


def _given(**values: Any) -> dict[str, Any]:
    """Only what is not None."""
    return {name: value for name, value in values.items() if value is not None}
