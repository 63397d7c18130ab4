"""An index on disk: comes back as it was, and is refused when it does not belong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xcrossrec.exceptions import BundleError, DataError
from xcrossrec.index import ItemIndex
from xcrossrec.index.codes import processor_multiplies_integers, quantise

MODEL, CATALOGUE = "m" * 64, "c" * 64


def vectors() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    ItemIndex(vectors(), quantise(vectors())).save(tmp_path / "index", model=MODEL, catalogue=CATALOGUE)
    return tmp_path / "index"


def reopen(folder: Path, model: str = MODEL, catalogue: str = CATALOGUE) -> ItemIndex:
    return ItemIndex.open(folder, model=model, catalogue=catalogue)


def test_an_index_comes_back_as_it_was(saved: Path, tmp_path: Path) -> None:
    back, before = reopen(saved), ItemIndex(vectors(), quantise(vectors()))
    assert torch.equal(back.vectors, before.vectors)
    found, expected = back.search(vectors()[:1], 5), before.search(vectors()[:1], 5)
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    if back.codes and before.codes and processor_multiplies_integers():
        assert torch.equal(back.codes.values, before.codes.values)
        assert (back.codes.error, back.codes.length) == (before.codes.error, before.codes.length)
    ItemIndex(vectors()).save(tmp_path / "plain", model=MODEL, catalogue=CATALOGUE)
    assert reopen(tmp_path / "plain").codes is None
    assert len(reopen(tmp_path / "plain")) == 40


def test_writing_into_a_reopened_index_leaves_the_file(saved: Path) -> None:
    reopen(saved).vectors.zero_()
    assert torch.equal(reopen(saved).vectors, vectors())


def test_another_models_or_catalogues_index_is_refused(saved: Path) -> None:
    with pytest.raises(BundleError, match=r"another model's vectors \(fingerprint mmmmmm.*xxxx.*xcrossrec index MODEL"):
        reopen(saved, model="x" * 64)
    with pytest.raises(DataError, match=r"another catalogue \(40 items, fingerprint cccccc.*xxxx.*--overwrite"):
        reopen(saved, catalogue="x" * 64)


def test_a_damaged_index_is_refused_by_name(saved: Path, tmp_path: Path) -> None:
    manifest = json.loads((saved / "xcrossrec.json").read_text())
    with pytest.raises(BundleError, match="nowhere' does not exist"):
        reopen(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"has no xcrossrec\.json"):
        reopen(tmp_path / "empty")
    for change, message in (
        ({"kind": "x-cross"}, "holds a 'x-cross', not an index"),
        ({"format_version": 7}, "format version 7, this release reads 1"),
    ):
        (saved / "xcrossrec.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(BundleError, match=message):
            reopen(saved)
    for key in ("model", "codes", "bytes"):
        (saved / "xcrossrec.json").write_text(json.dumps({name: manifest[name] for name in manifest if name != key}))
        with pytest.raises(BundleError, match=f"has no '{key}'"):
            reopen(saved)
    (saved / "xcrossrec.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        reopen(saved)


@pytest.mark.parametrize("name", ["vectors.npy", "codes.npy", "scale.npy"])
def test_a_cut_array_is_refused(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[:-10])
    with pytest.raises(BundleError, match=rf"{name} is missing or not of the {len(whole)} bytes"):
        reopen(saved)
    (saved / name).write_bytes(b"\0" * len(whole))
    with pytest.raises(BundleError, match=f"{name} is not a readable array"):
        reopen(saved)
    (saved / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        reopen(saved)


def test_an_index_replaces_only_an_index(saved: Path, tmp_path: Path) -> None:
    index = ItemIndex(vectors()[:3])
    with pytest.raises(BundleError, match="exists"):
        index.save(saved, model=MODEL, catalogue=CATALOGUE)
    assert len(reopen(saved)) == 40
    index.save(saved, model=MODEL, catalogue=CATALOGUE, overwrite=True)
    assert len(reopen(saved)) == 3
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "xcrossrec.json").write_text('{"kind": "adapter"}')
    with pytest.raises(BundleError, match="holds a model, not an index"):
        index.save(tmp_path / "model", model=MODEL, catalogue=CATALOGUE, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(BundleError, match="is not replaced"):
        index.save(tmp_path / "other", model=MODEL, catalogue=CATALOGUE, overwrite=True)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("xcrossrec.index.store.json.dumps", full)
    with pytest.raises(OSError, match="no space left"):
        ItemIndex(vectors()).save(tmp_path / "index", model=MODEL, catalogue=CATALOGUE)
    assert list(tmp_path.iterdir()) == []
