"""What the client raises."""

from __future__ import annotations

from xcrossrec.exceptions import XCrossRecError


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
