"""An engine for tests: the same process, but nothing gets there that could not be sent to another one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xcrossrec.engine import Make


@dataclass
class Elsewhere:
    """As an engine in another process: everything goes there and back pickled, and comes out of order."""

    here = False
    until: int | None = None
    worked: list[str] = field(default_factory=list)

    def results(self, make: Make, blocks: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        sent = pickle.loads(pickle.dumps((make, dict(blocks))))
        work = sent[0]()
        for name, block in reversed(sent[1].items()):
            if self.until is not None and len(self.worked) == self.until:
                raise KeyboardInterrupt
            self.worked.append(name)
            yield name, work(block)
