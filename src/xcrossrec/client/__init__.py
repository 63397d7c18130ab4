"""A typed client of the service, synchronous and asynchronous; needs httpx and pydantic, and no torch.

    from xcrossrec.client import Client

    with Client("http://127.0.0.1:8000") as shop:
        found = shop.recommend(["B0012", "title:Wooden train set"], k=5)
        print(found.items[0].title, found.items[0].score)

If the service is busy (429, 503), the call is repeated after the time in ``Retry-After``.
Errors have the server's message.
"""

from xcrossrec.answers import (
    AddedPurchases,
    Explanation,
    HistoryMatch,
    ItemScore,
    LayerShare,
    Recommendation,
    Recommendations,
    Scores,
    SourceShare,
)
from xcrossrec.client.answers import Purchase, RequestRefusedError, ServiceBusyError, ServiceError, StoredItem
from xcrossrec.client.calls import HistoryEntry
from xcrossrec.client.clients import LOCAL, AsyncClient, Client
from xcrossrec.filters import Filters

__all__ = [
    "LOCAL",
    "AddedPurchases",
    "AsyncClient",
    "Client",
    "Explanation",
    "Filters",
    "HistoryEntry",
    "HistoryMatch",
    "ItemScore",
    "LayerShare",
    "Purchase",
    "Recommendation",
    "Recommendations",
    "RequestRefusedError",
    "Scores",
    "ServiceBusyError",
    "ServiceError",
    "SourceShare",
    "StoredItem",
]
