"""The commands that make a catalogue and give it another model's vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xcrossrec.catalogue import StoredItem, encode_items, open_catalogue
from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain
from xcrossrec.models import bundle

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

RUNNER = CliRunner()
ITEMS = "item_id,title,category,price\ni0,Red train,toys,5\ni1,Drill set,tools,\n"


def call(*words: object) -> tuple[int, str, str]:
    done = RUNNER.invoke(app, ["-q", "catalog", *map(str, words)])
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def test_a_built_catalogue_is_one_models_until_it_is_embedded_again(tiny_models: Any, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(ITEMS, encoding="utf-8")
    code, out, _ = call("build", tiny_models.late, tmp_path / "items.csv", "--out", tmp_path / "c")
    assert code == 0
    assert ": 2 items, " in out
    late, other = bundle.load(tiny_models.late), bundle.load(tiny_models.sources[0])
    items = [StoredItem("i0", "Red train", "toys", price=5), StoredItem("i1", "Drill set", "tools")]
    with open_catalogue(late, tmp_path / "c") as store:
        assert list(store.snapshot()) == items
        assert (store.snapshot().vectors(["i0", "i1"]).numpy() == encode_items(late, items)).all()
        code, _, error = call("embed", tiny_models.sources[0], tmp_path / "c")
        assert code == 2
        assert "open in another process" in error
    with pytest.raises(bundle.BundleError) as refused:
        open_catalogue(other, tmp_path / "c")
    command = str(refused.value).split("xcrossrec catalog ")[1].replace("MODEL", str(tiny_models.sources[0])).split()
    code, out, _ = call(*command)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'c'}: 2 items, ")
    with open_catalogue(other, tmp_path / "c") as store:
        assert list(store.snapshot()) == items
        assert (store.snapshot().vectors(["i0"]).numpy() == encode_items(other, items)[:1]).all()


def test_a_domain_is_built_and_a_taken_folder_refused(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "tiny")
    assert call("build", tiny_models.pair, tmp_path / "tiny", "--out", tmp_path / "c")[0] == 0
    code, _, error = call("build", tiny_models.late, tmp_path / "tiny", "--out", tmp_path / "c")
    assert code == 2
    assert "exists: choose another place, or allow to overwrite it (--overwrite)" in error
    assert call("build", tiny_models.late, tmp_path / "tiny", "--out", tmp_path / "c", "--overwrite")[0] == 0
    code, _, error = call("build", tiny_models.late, tmp_path / "tiny", "--out", tmp_path / "tiny", "--overwrite")
    assert code == 2
    assert "is no catalogue: it is not replaced" in error
    assert (tmp_path / "tiny" / "items.parquet").exists()


def test_mistakes_are_one_sentence(tiny_models: Any, tmp_path: Path) -> None:
    code, _, error = call("build", tiny_models.late, tmp_path / "none.csv", "--out", tmp_path / "c")
    assert (code, (tmp_path / "c").exists()) == (2, False)
    assert "none.csv does not exist" in error
    (tmp_path / "c").mkdir()
    code, _, error = call("embed", tiny_models.late, tmp_path / "c")
    assert code == 2
    assert "holds no catalogue" in error
