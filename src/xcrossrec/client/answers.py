"""What the service answers, as types and as errors, and how JSON is read into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from xcrossrec.exceptions import XCrossRecError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class StoredItem:
    """An item of a catalogue.

    Attributes:
        category, in_stock, price: for filters; the price in the shop's currency.
        metadata: whatever else the shop keeps with it.
    """

    item_id: str
    title: str
    category: str | None = None
    in_stock: bool = True
    price: float | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Purchase:
    """What a customer bought.

    Attributes:
        item_id: of one item, or of several, the oldest first.
        timestamp: seconds since 1970; None where it is unknown.
    """

    user_id: str
    item_id: str | Sequence[str]
    timestamp: int | None = None


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


# ---- reading


def read(kind: Any, answer: bytes, key: str | None = None) -> Any:
    """Take an answer's JSON, or one key of it, as a dataclass, a tuple of them, or a plain type (else ServiceError).

    Keys that the type lacks are ignored, so that a newer server is understood.
    """
    from pydantic import ValidationError

    try:
        found = _reader(kind, key).validate_json(answer, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["answer", *map(str, first["loc"])])
        raise ServiceError(
            f"the server's {place} is {repr(first['input'])[:200]} ({first['msg']}), which this client does not "
            "understand: check the address, and that client and server are of the same release"
        ) from None
    return found if key is None else getattr(found, key)


@cache
def _reader(kind: Any, key: str | None) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter, create_model

    fields: dict[str, Any] = {} if key is None else {key: (kind, ...)}
    return TypeAdapter(create_model("Answer", **fields) if fields else kind)
