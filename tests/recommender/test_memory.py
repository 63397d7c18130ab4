"""Titles that were encoded are remembered: as they were, so many, the least recently used least long."""

from __future__ import annotations

from typing import Any

import torch

from xcrossrec.models import bundle
from xcrossrec.recommender import Recommender
from xcrossrec.recommender.recommender import Memory


def test_the_least_recently_used_goes_first() -> None:
    memory = Memory(2)
    memory.keep({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    assert set(memory.recall(["a", "x"])) == {"a"}
    memory.keep({"c": torch.tensor(3.0)})
    assert set(memory.recall(["a", "b", "c"])) == {"a", "c"}
    none = Memory(0)
    none.keep({"a": torch.tensor(1.0)})
    assert len(none) == 0


def test_a_remembered_vector_holds_no_others() -> None:
    memory, read = Memory(9), torch.ones(100, 4)
    memory.keep({"a": read[3]})
    assert memory.recall(["a"])["a"].untyped_storage().nbytes() == 16


def test_a_remembered_title_gives_the_same_score(tiny_models: Any, tiny_domain: Any) -> None:
    told: dict[str, int] = {"encoded": 0, "recalled": 0}

    def count(kind: str) -> Any:
        return lambda texts: told.update({kind: told[kind] + texts})

    model = bundle.load(tiny_models.late)
    counting = Recommender(model, tiny_domain, on_encoded=count("encoded"), on_recalled=count("recalled"))
    first = counting.recommend(["A free title", "i1"])
    assert told == {"encoded": 1, "recalled": 0}
    assert counting.recommend(["A free title", "i1"]) == first
    assert told == {"encoded": 1, "recalled": 1}
    fresh = Recommender(model, tiny_domain, remembered=0)
    assert [fresh.recommend(["A free title", "i1"]) for _ in range(2)] == [first, first]
