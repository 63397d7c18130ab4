"""Catalogues that a service makes beside a domain's folder or a table, and finds again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xcrossrec.catalogue.catalogues import open_or_build
from xcrossrec.catalogue.embedding import embed_again, encode_items
from xcrossrec.catalogue.sqlite import StoredItem
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import BundleError
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
    with open_or_build(first, source) as store:
        store.upsert([NEW], encode_items(first, [NEW.title]))
        with embed_again(store, second) as new:
            assert new.count == 7
    with open_or_build(second, source) as store:  # the folder is still called after the first
        assert (store.count, store.get(["new"])) == (7, [NEW])
    with pytest.raises(BundleError, match=r"another model's vectors.*xcrossrec catalog embed MODEL"):
        open_or_build(first, source)


def test_models_of_one_process_have_catalogues_of_their_own(source: Path, tiny_models: Any) -> None:
    pairs = [bundle.load(tiny_models.pair), bundle.load(tiny_models.shared)]
    with open_or_build(pairs[0], source) as one, open_or_build(pairs[1], source, [one.folder]) as two:
        one.upsert([NEW], encode_items(pairs[0], [NEW.title]))
        assert (one.count, two.count) == (7, 6)
    with open_or_build(pairs[0], source) as one, open_or_build(pairs[1], source, [one.folder]) as two:
        assert (one.count, two.count) == (7, 6)


def test_a_table_does_not_take_another_tables_catalogue(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    names = ("items.csv", "other-items.csv")
    for name in names:
        tiny_domain.items.write_csv(tmp_path / name)
    model = bundle.load(tiny_models.late)
    with open_or_build(model, tmp_path / names[0]) as one, open_or_build(model, tmp_path / names[1]) as two:
        assert one.folder != two.folder
