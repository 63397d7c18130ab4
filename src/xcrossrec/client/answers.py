"""What the service answers, as types and as errors, and how JSON is read into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from xcrossrec.exceptions import XCrossRecError


@dataclass(frozen=True)
class StoredItem:
    """An item of a catalogue.

    Attributes:
        item_id: its id.
        title: its text.
        category: for filters.
        in_stock: for filters.
        price: for filters, in the shop's currency.
        metadata: whatever else the shop keeps with it.
    """

    item_id: str
    title: str
    category: str | None = None
    in_stock: bool = True
    price: float | None = None
    metadata: Mapping[str, Any] | None = None


# ---- errors


class ServiceError(XCrossRecError):
    """The service refused, failed, or did not answer.

    Args:
        message: the server's own sentence, where it sent one.
        status: of HTTP; 0 where no answer came.
        code: the server's short name of the problem; empty where none came.
        request_id: under which the server's log has the request; empty where none came.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id


class RequestRefusedError(ServiceError):
    """The request is at fault (4xx): put again as it is, it would be refused again."""


class ServiceBusyError(ServiceError):
    """The service had no room, or was not ready, for longer than the client waits (429, 503)."""


def foreign(place: str, what: str) -> ServiceError:
    """An answer that is not the service's, or of another release."""
    return ServiceError(
        f"the server's {place} {what}, which this client does not understand: check the address, and that client and "
        "server are of the same release"
    )


# ---- reading


def read(kind: Any, answer: Any, key: str | None = None) -> Any:
    """Take an answer's JSON, or one key of it, as a type.

    Keys that the type lacks are ignored, so that a newer server is understood.

    Args:
        kind: a dataclass of this module, a tuple of them, or a plain type.
        answer: parsed JSON.
        key: the part to take; None takes the whole.

    Raises:
        ServiceError: it is something else.
    """
    if key is None:
        return _read(kind, answer, "answer")
    given = _expect(dict, answer, "answer")
    if key not in given:
        raise foreign("answer", f"lacks {key!r}")
    return _read(kind, given[key], f"answer.{key}")


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return None if value is None else _read(next(each for each in inner if each is not NoneType), value, place)
    if origin is tuple:
        return tuple(_read(inner[0], each, f"{place}[{n}]") for n, each in enumerate(_expect(list, value, place)))
    if is_dataclass(kind):
        return _read_object(kind, value, place)
    if kind is float:
        return float(_expect((int, float), value, place))
    return _expect(kind if origin is None else dict, value, place)


def _read_object(kind: Any, value: Any, place: str) -> Any:
    given, hints, values = _expect(dict, value, place), _hints(kind), {}
    for field in fields(kind):
        if field.name in given:
            values[field.name] = _read(hints[field.name], given[field.name], f"{place}.{field.name}")
        elif field.default is MISSING:
            raise foreign(place, f"lacks {field.name!r}")
    return kind(**values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _expect(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise foreign(place, f"is {value!r}")
    return value
