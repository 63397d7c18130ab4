"""Methods that count: popularity, item-to-item co-occurrence, words of titles."""

from __future__ import annotations

from xcrossrec import scorer_for
from xcrossrec_lab.task import Fitted, Task, check_settings


def popularity(task: Task) -> Fitted:
    """How often the budget's users bought an item."""
    return _counted(task, "popularity")


def itemknn(task: Task) -> Fitted:
    """Cosine of items over the budget's users."""
    return _counted(task, "itemknn")


def tfidf(task: Task) -> Fitted:
    """Words that a title shares with the history's titles."""
    return _counted(task, "tfidf")


def _counted(task: Task, name: str) -> Fitted:
    check_settings(task, set())
    return Fitted(scorer_for(f"baseline:{name}", task.target).scorer)
