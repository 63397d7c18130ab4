"""A search of the store gives what the Recommender gives, whatever was written before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import SentenceTransformer

from xcrossrec.catalogue import (
    Search,
    SqliteCatalogue,
    StoredItem,
    build_catalogue,
    embed_again,
    encode_items,
    history_pool,
    open_catalogue,
)
from xcrossrec.models import bundle
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.model import matcher_of
from xcrossrec.recommender import Recommender

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

WORDS = ["red", "blue", "wooden", "train", "track", "drill", "bit", "tape", "saw"]


def title(number: int) -> str:
    """A title for each number; some numbers share one."""
    return f"{WORDS[number % 9]} {WORDS[number * 7 % 8]} {number % 17}"


def recommended(
    store: SqliteCatalogue, model: SentenceTransformer, history: list[str], k: int
) -> list[tuple[str, float]]:
    """What a service does with the store: known ids, items of the same titles left out."""
    snapshot, matcher = store.snapshot(), matcher_of(model)
    bought = [item for item in snapshot.get(history) if item is not None]
    slots = snapshot.vectors(history)
    same = {each.item_id for each in snapshot if each.title in {item.title for item in bought}}
    found = snapshot.search(Search(slots, history_pool(matcher, len(slots)), exclude=same), k)
    return [(item.item_id, score) for item, score in found]


def expected(store: SqliteCatalogue, model: Any, history: list[str], k: int) -> list[tuple[str, float]]:
    items = list(store.snapshot())
    table = pl.DataFrame({"item_id": [i.item_id for i in items], "title": [i.title for i in items]})
    return [(r.item_id, r.score) for r in Recommender(model, table).recommend(history, k)]


def assert_same(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    """The same items in the same order; scores to float32 (batches of titles differ in their last bit)."""
    np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], atol=2e-6)
    assert [item_id for item_id, _ in found] == [item_id for item_id, _ in wanted]


@pytest.mark.parametrize("kind", ["late"])
def test_the_store_ranks_as_the_recommender_after_every_kind_of_write(
    tiny_models: Any, tmp_path: Path, kind: str
) -> None:
    model = bundle.load(getattr(tiny_models, kind))
    other = bundle.load(tiny_models.sources[0])
    history = ["i7", "i3", "i30"]
    items = [StoredItem(f"i{n}", title(n)) for n in range(40)]
    build_catalogue(model, items, tmp_path / "c").close()
    with open_catalogue(model, tmp_path / "c") as store:
        assert_same(recommended(store, model, history, 12), expected(store, model, history, 12))
        changed = [StoredItem(f"i{n}", title(n + 3)) for n in (5, 30, 41, 42)]
        store.upsert(changed, encode_items(model, changed))
        store.delete(["i8", "i41"])
        assert_same(recommended(store, model, history, 99), expected(store, model, history, 99))
        store.compact()
        assert_same(recommended(store, model, history, 99), expected(store, model, history, 99))
        with embed_again(store, other) as new:
            assert_same(recommended(new, other, history, 99), expected(new, other, history, 99))


def test_a_pair_models_catalogue_holds_titles_alone(tiny_models: Any, tmp_path: Path) -> None:
    pair = bundle.load(tiny_models.pair)
    shared = bundle.load(tiny_models.shared)
    build_catalogue(pair, [StoredItem("i0", title(0))], tmp_path / "c").close()
    with open_catalogue(shared, tmp_path / "c") as store:
        assert store.upsert([other := StoredItem("i1", title(1))], encode_items(shared, [other])) == 1
        assert (store.snapshot().dim, len(store)) == (0, 2)
        dual = bundle.load(tiny_models.late)
        with embed_again(store, dual) as embedded:
            torch.testing.assert_close(
                embedded.snapshot().vectors(["i1"]), encode_titles(dual, [title(1)]), atol=1e-6, rtol=0
            )
