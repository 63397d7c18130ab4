"""What a model read lately, so that it need not be read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Any

from xcrossrec.recommender.ranking import Read, Text


class Memory:
    """Remembers of one model what it made of texts; any thread may use it.

    Args:
        most: texts that are kept; the least recently used goes first. 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[Text, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Remember nothing."""
        with self._lock:
            self._kept.clear()

    def recall(self, texts: Iterable[Text]) -> dict[Text, Any]:
        """Those of the texts that are remembered."""
        with self._lock:
            known = {text: self._kept[text] for text in texts if text in self._kept}
            for text in known:
                self._kept.move_to_end(text)
        return known

    def keep(self, read: Read) -> None:
        """Remember texts; a vector is copied, which may be a part of many."""
        with self._lock:
            for text, value in read.items() if self.most else ():
                self._kept[text] = value.clone()
                self._kept.move_to_end(text)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
