"""Catalogues that a service makes beside a domain's folder or a table, and finds again."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from catalogue_parts import only_slot
from xcrossrec.catalogue import (
    Forgotten,
    Purchase,
    Search,
    StoredItem,
    build_catalogue,
    embed_again,
    encode_items,
    open_catalogue,
)
from xcrossrec.catalogue.kept import recorded_purchases
from xcrossrec.copurchase import user_hash
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import BundleError, StorageError
from xcrossrec.models import bundle

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

NEW = StoredItem("new", "Wooden bridge")


@pytest.fixture(params=["domain", "items.csv"])
def source(request: pytest.FixtureRequest, tiny_domain: Domain, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    if path.suffix:
        tiny_domain.items.write_csv(path)
    else:
        write_domain(tiny_domain, path)
    return path


def test_items_that_were_written_outlive_a_change_of_models(source: Path, tiny_models: Any) -> None:
    first, second = bundle.load(tiny_models.late), bundle.load(tiny_models.sources[0])
    with open_catalogue(first, source, keep=True) as store:
        store.upsert([NEW], encode_items(first, [NEW]))
        with embed_again(store, second) as new:
            assert len(new) == 7
    with open_catalogue(second, source, keep=True) as store:  # the folder is still called after the first
        assert (len(store), store.snapshot().get(["new"])) == (7, [NEW])
    with pytest.raises(BundleError, match=r"another model's vectors.*xcrossrec catalog embed MODEL"):
        open_catalogue(first, source, keep=True)


def test_models_of_one_process_have_catalogues_of_their_own(source: Path, tiny_models: Any) -> None:
    pairs = [bundle.load(tiny_models.pair), bundle.load(tiny_models.shared)]
    with (
        open_catalogue(pairs[0], source, keep=True) as one,
        open_catalogue(pairs[1], source, keep=True, taken=[one.folder]) as two,
    ):
        one.upsert([NEW], encode_items(pairs[0], [NEW]))
        assert (len(one), len(two)) == (7, 6)
    with (
        open_catalogue(pairs[0], source, keep=True) as one,
        open_catalogue(pairs[1], source, keep=True, taken=[one.folder]) as two,
    ):
        assert (len(one), len(two)) == (7, 6)


def test_a_table_does_not_take_another_tables_catalogue(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    names = ("items.csv", "other-items.csv")
    for name in names:
        tiny_domain.items.write_csv(tmp_path / name)
    model = bundle.load(tiny_models.late)
    with (
        open_catalogue(model, tmp_path / names[0], keep=True) as one,
        open_catalogue(model, tmp_path / names[1], keep=True) as two,
    ):
        assert one.folder != two.folder


def test_every_source_gives_the_same_catalogue_and_only_a_kept_one_stays(
    tiny_domain: Domain, tiny_models: Any, tmp_path: Path
) -> None:
    model = bundle.load(tiny_models.late)
    write_domain(tiny_domain, tmp_path / "tiny")
    tiny_domain.items.write_csv(tmp_path / "items.csv")
    build_catalogue(model, tiny_domain, tmp_path / "c").close()
    before = sorted(tmp_path.rglob("*"))
    items = list(tiny_domain.items.iter_rows())
    found, folders = [], []
    for source in (tiny_domain, tiny_domain.items, tmp_path / "tiny", str(tmp_path / "items.csv"), tmp_path / "c"):
        with open_catalogue(model, source) as catalogue:
            folders.append(catalogue.folder)
            snapshot = catalogue.snapshot()
            assert [(item.item_id, item.title) for item in snapshot] == items
            found.append(snapshot.search(Search(snapshot.vectors(["i1"]), only_slot), 3))
            assert open_catalogue(model, catalogue) is catalogue
            with pytest.raises(BundleError, match="another model's vectors"):
                open_catalogue(bundle.load(tiny_models.sources[0]), catalogue)
    assert folders == [None, None, None, None, tmp_path / "c"]
    assert all(each == found[0] for each in found)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_catalogue_that_is_built_keeps_the_purchases_of_its_source_or_of_the_one_it_replaces(
    tiny_domain: Domain, tiny_models: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, kept = bundle.load(tiny_models.late), [("anna", "i1", 5), ("bo", "i1", None)]
    with build_catalogue(model, tiny_domain, tmp_path / "c") as first:
        first.add_purchases([Purchase(*each) for each in kept])
        first.forget("cy")
    for source, place in ((tmp_path / "c", tmp_path / "of a catalogue"), (tiny_domain, tmp_path / "c")):
        with build_catalogue(model, source, place, overwrite=True) as made:
            assert made.purchases().rows() == kept
            assert list(made.purchases_after(0)) == [Forgotten(user_hash("cy"))]
    (tmp_path / "c" / "catalogue.sqlite").write_bytes(b"nothing of it is left" * 1000)
    with build_catalogue(model, tiny_domain, tmp_path / "c", overwrite=True) as anew:
        assert anew.purchases().is_empty()
    assert "the purchases of" in caplog.text
    assert "are left out" in caplog.text


def test_a_catalogue_that_may_not_be_read_is_not_replaced_without_its_purchases(
    tiny_domain: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bundle.load(tiny_models.late)
    with build_catalogue(model, tiny_domain, tmp_path / "c") as first:
        first.add_purchases([Purchase("anna", "i1", 5)])
    with monkeypatch.context() as patch:
        patch.setattr("xcrossrec.catalogue.files.check_access", Mock(side_effect=StorageError("not by this user")))
        for place in ("c", "copy"):
            with pytest.raises(StorageError, match="not by this user"):
                build_catalogue(
                    model, tmp_path / "c" if place == "copy" else tiny_domain, tmp_path / place, overwrite=True
                )
    assert not (tmp_path / "copy").exists()
    assert recorded_purchases(tmp_path / "c").table().rows() == [("anna", "i1", 5)]


def test_who_was_forgotten_in_a_catalogue_comes_back_by_no_other_that_takes_its_place(
    tiny_domain: Domain, tiny_models: Any, tmp_path: Path
) -> None:
    """Not by a copy of before; and what she bought after both had forgotten her counts."""
    model = bundle.load(tiny_models.late)
    with build_catalogue(model, tiny_domain, tmp_path / "copy") as copy:
        copy.forget("cy")
        copy.add_purchases([Purchase("anna", "i0"), Purchase("bo", "i1"), Purchase("cy", "i2")])
    with build_catalogue(model, tmp_path / "copy", tmp_path / "shop") as shop:
        shop.forget("anna")
    with build_catalogue(model, tmp_path / "copy", tmp_path / "shop", overwrite=True) as anew:
        assert anew.purchases().rows() == [("bo", "i1", None), ("cy", "i2", None)]
        assert list(anew.purchases_after(0))[:2] == [Forgotten(user_hash("cy")), Forgotten(user_hash("anna"))]
