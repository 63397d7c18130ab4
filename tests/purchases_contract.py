"""What every catalogue does with purchases."""

from __future__ import annotations

import pickle

import polars as pl
import pytest

from catalogue_parts import DIM, OTHER, encode_items, item, unit
from xcrossrec.catalogue import (
    Catalogue,
    CatalogueReplacedError,
    Forgotten,
    Purchase,
)
from xcrossrec.copurchase import user_hash
from xcrossrec.exceptions import ConfigError


class PurchasesContract:
    """Part of what every catalogue does; `CatalogueContract` says how one is made."""

    def test_purchases_are_kept_once_each_in_order_of_arrival(self, store: Catalogue) -> None:
        before = store.version
        first = [Purchase("anna", "i2", 50), Purchase("bo", "i1")]
        assert list(store.add_purchases([*first, Purchase("anna", "i2", 70)])) == first
        assert store.version == before + 1
        assert len(store.add_purchases([Purchase("bo", "i1", 99), Purchase("anna", "not in the catalogue", 10)])) == 1
        assert not [*store.add_purchases([Purchase("bo", "i1")]), *store.add_purchases([])]
        assert store.version == before + 2
        kept = [("anna", "i2", 50), ("bo", "i1", None), ("anna", "not in the catalogue", 10)]
        assert store.purchases().schema == {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
        assert store.purchases().rows() == kept
        again = self.reopened(store)
        assert (again.purchases().rows(), again.version) == (kept, before + 2)
        assert len(again.add_purchases([Purchase("anna", "i2"), Purchase("anna", "i1")])) == 1
        assert again.purchases().rows() == [*kept, ("anna", "i1", None)]
        again.close()

    def test_who_read_some_purchases_reads_the_rest(self, store: Catalogue) -> None:
        store.add_purchases([Purchase("anna", "i2")])
        again = self.reopened(store)
        read = again.purchases().height
        assert list(again.purchases_after(read)) == []
        again.add_purchases([Purchase("anna", "i2"), Purchase("bo", "i2", 5), Purchase("bo", "i3")])
        assert list(again.purchases_after(read)) == [Purchase("bo", "i2", 5), Purchase("bo", "i3")]
        assert list(again.purchases_after(read + 1)) == [Purchase("bo", "i3")]
        again.close()

    def test_purchases_outlive_their_items_and_the_model(self, store: Catalogue) -> None:
        store.upsert([item(0), item(1)], unit(0, 1))
        store.add_purchases([Purchase("anna", "i0"), Purchase("anna", "i1")])
        store.delete(["i0"])
        store.compact()
        new = store.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
        with pytest.raises(CatalogueReplacedError, match="write to the catalogue that replaced this one"):
            store.add_purchases([Purchase("bo", "i0")])
        assert len(new.add_purchases([Purchase("anna", "i0"), Purchase("bo", "i0")])) == 1
        kept = [("anna", "i0", None), ("anna", "i1", None), ("bo", "i0", None)]
        assert (store.purchases().rows(), new.purchases().rows()) == (kept, kept)  # who still answers sees it too
        again = self.reopened(new)
        assert again.purchases().rows() == kept
        again.close()
        with pytest.raises(ConfigError, match="is closed: open it again"):
            again.add_purchases([Purchase("bo", "i1")])

    def test_who_is_forgotten_bought_nothing(self, store: Catalogue) -> None:
        store.add_purchases([Purchase("anna", "i2"), Purchase("bo", "i1"), Purchase("anna", "i3", 9)])
        read, version = store.purchases_read, store.version
        assert (store.forget("anna"), store.version) == (2, version + 1)
        assert (store.forget("anna"), store.forget("nobody"), store.version) == (0, 0, version + 1)
        assert store.purchases().rows() == [("bo", "i1", None)]
        assert len(store.add_purchases([Purchase("bo", "i1"), Purchase("anna", "i2")])) == 1
        since = [each for each in store.purchases_after(read) if each is not None]
        anna, nobody, bo = (Forgotten(user_hash(user)) for user in ("anna", "nobody", "bo"))
        assert since == [anna, nobody, Purchase("anna", "i2")]
        elsewhere = pickle.loads(pickle.dumps(store.elsewhere()))()
        again = self.reopened(store)
        for each in (elsewhere, again):  # whose models may know her yet
            assert [entry for entry in each.purchases_after(0) if isinstance(entry, Forgotten)] == [anna, nobody]
        elsewhere.close()
        assert (again.purchases().rows(), again.version) == ([("bo", "i1", None), ("anna", "i2", None)], version + 2)
        assert again.forget("bo") == 1
        assert again.purchases().rows() == [("anna", "i2", None)]
        assert again.forget("anna") == 1
        again = self.reopened(again)
        assert {entry for entry in again.purchases_after(0) if isinstance(entry, Forgotten)} == {anna, nobody, bo}
        again.close()

    # ---- another model
