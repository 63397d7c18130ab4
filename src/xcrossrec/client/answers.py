"""Types and errors of the client, and the conversion of the service's JSON answers."""

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
        metadata: any further data of the shop.
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
        timestamp: seconds since 1970; None if unknown.
    """

    user_id: str
    item_id: str | Sequence[str]
    timestamp: int | None = None


# ---- errors


class ServiceError(XCrossRecError):
    """The service refused, failed, or did not answer.

    Args:
        message: from the server, if it sent one.
        status: of HTTP; 0 without an answer.
        code: the server's short name of the problem; empty if unknown.
        request_id: id of the request in the server's log; empty if unknown.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id


class RequestRefusedError(ServiceError):
    """The request is invalid (4xx) and would be refused again."""


class ServiceBusyError(ServiceError):
    """The service was full or not ready for longer than the client waits (429, 503)."""


# ---- reading


def read(kind: Any, answer: bytes, key: str | None = None) -> Any:
    """Convert an answer's JSON, or one key of it, to a dataclass, a tuple of them, or a plain type (else ServiceError).

    Unknown keys are ignored, so that a newer server is understood.
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
