"""Methods that count: popularity, item-to-item co-occurrence, words of titles."""

from __future__ import annotations

from xcrossrec.baselines.rivals import ItemKNN, Popularity, TfidfMean
from xcrossrec_lab.task import Fitted, Task, check_settings


def popularity(task: Task) -> Fitted:
    """How often the budget's users bought an item."""
    check_settings(task, set())
    return Fitted(Popularity.fit(task.target))


def itemknn(task: Task) -> Fitted:
    """Cosine of items over the budget's users."""
    check_settings(task, set())
    return Fitted(ItemKNN.fit(task.target))


def tfidf(task: Task) -> Fitted:
    """Words that a title shares with the history's titles."""
    check_settings(task, set())
    return Fitted(TfidfMean.fit(task.target))
