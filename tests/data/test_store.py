from __future__ import annotations

import json
from pathlib import Path

import pytest

from xcrossrec.data import Domain, read_domain, store, write_domain
from xcrossrec.exceptions import DataError
from xcrossrec.system import FINDER


def test_domain_is_read_as_it_was_written(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    read = read_domain(tmp_path / "d")
    assert read.name == "tiny"
    assert read.items.equals(tiny_domain.items)
    assert read.splits == ("train", "validation", "test")
    assert all(read.interactions[s].equals(tiny_domain.interactions[s]) for s in read.splits)
    assert read.manifest == tiny_domain.manifest
    assert read.fingerprint == tiny_domain.fingerprint == read.manifest["fingerprint"]


def test_paths_may_be_text(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, str(tmp_path / "d"))
    assert read_domain(str(tmp_path / "d")).fingerprint == tiny_domain.fingerprint


def test_manifest_counts_what_is_there(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "a" / "b")
    manifest = json.loads((tmp_path / "a" / "b" / "manifest.json").read_text())
    assert manifest["counts"] == {
        "items": 6,
        "users": {"train": 3, "validation": 2, "test": 2},
        "interactions": {"train": 10, "validation": 6, "test": 5},
    }
    assert manifest["format_version"] == 2
    assert manifest["simulated"] is False


def test_write_refuses_a_domain_that_stands_there(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    with pytest.raises(DataError, match="already holds a domain"):
        write_domain(tiny_domain, tmp_path / "d")
    smaller = Domain("new", tiny_domain.items, {"train": tiny_domain.interactions["train"]})
    write_domain(smaller, tmp_path / "d", overwrite=True)
    assert read_domain(tmp_path / "d").splits == ("train",)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_write_never_replaces_a_foreign_folder(tiny_domain: Domain, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a domain folder: it is left alone"):
        write_domain(tiny_domain, tmp_path, overwrite=overwrite)
    with pytest.raises(DataError, match="is a file and no folder: choose another place"):
        write_domain(tiny_domain, tmp_path / "precious.txt", overwrite=overwrite)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("shown_by_macos", [True, False])
def test_write_into_an_empty_folder(tiny_domain: Domain, tmp_path: Path, shown_by_macos: bool) -> None:
    (tmp_path / "d").mkdir()
    if shown_by_macos:
        (tmp_path / "d" / FINDER).touch()
    write_domain(tiny_domain, tmp_path / "d")
    assert read_domain(tmp_path / "d").name == "tiny"


def test_a_domain_of_the_format_without_text_has_titles_alone(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    del manifest["text"], manifest["checksums"]
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({**manifest, "format_version": 1}))
    domain = read_domain(tmp_path / "d")
    assert (domain.text.template, domain.fingerprint) == ("{title}", tiny_domain.fingerprint)
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({**manifest, "text": "{title"}))
    with pytest.raises(DataError, match=r"manifest.json is damaged \(the item text '\{title' is not understood"):
        read_domain(tmp_path / "d")


def test_interrupted_write_leaves_nothing(tiny_domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "manifest_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_domain(tiny_domain, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_overwrite_keeps_the_old_domain(
    tiny_domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    monkeypatch.setattr("xcrossrec.replacing._change_places", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    new = Domain("new", tiny_domain.items, {"train": tiny_domain.interactions["train"]})
    with pytest.raises(OSError, match="disk gone"):
        write_domain(new, tmp_path / "d", overwrite=True)
    assert read_domain(tmp_path / "d").name == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_read_refuses_what_is_no_domain(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no domain folder at .*absent"):
        read_domain(tmp_path / "absent")
    with pytest.raises(DataError, match=r"is not a domain folder \(it has no manifest.json\)"):
        read_domain(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has format version None, this xcrossrec reads 2"),
        ('{"format_version": 99}', "has format version 99, this xcrossrec reads 2"),
        ('{"format_version": 1, "name": "d"}', "lacks name, fingerprint or counts"),
    ],
)
def test_read_refuses_a_bad_manifest(tmp_path: Path, manifest: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=message):
        read_domain(tmp_path)


def test_read_refuses_missing_damaged_or_changed_files(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    file = tmp_path / "d" / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train.parquet is not the file that was written"):
        read_domain(tmp_path / "d")
    tiny_domain.interactions["train"].head(3).write_parquet(file)
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({**manifest, "checksums": {}}))
    with pytest.raises(DataError, match=r"it was changed after the import; import it again"):
        read_domain(tmp_path / "d")
    file.unlink()
    with pytest.raises(DataError, match=r"lacks train.parquet: import the domain again"):
        read_domain(tmp_path / "d")


@pytest.mark.parametrize("file", ["items.parquet", "train.parquet", "test.parquet"])
def test_a_flipped_bit_of_a_table_is_a_sentence(tiny_domain: Domain, tmp_path: Path, file: str) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    whole = (tmp_path / "d" / file).read_bytes()
    for at in range(0, 8 * len(whole), 101):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        (tmp_path / "d" / file).write_bytes(flipped)
        with pytest.raises(DataError, match=rf"{file} is not the file that was written .its checksum differs"):
            read_domain(tmp_path / "d")


def test_a_flipped_bit_of_the_manifest_is_a_sentence_or_changes_nothing(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    whole, refused = (tmp_path / "d" / "manifest.json").read_bytes(), 0
    for at in range(0, 8 * len(whole), 97):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        (tmp_path / "d" / "manifest.json").write_bytes(flipped)
        try:
            read = read_domain(tmp_path / "d")
        except DataError:
            refused += 1
        else:
            assert (read.name, read.fingerprint) == (tiny_domain.name, tiny_domain.fingerprint)
    assert refused > 40


def test_a_panic_of_polars_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit can make Polars panic, with an exception of its own that is no Exception."""
    panic = type("PanicException", (BaseException,), {})

    def read_parquet(*_: object, **__: object) -> None:
        raise panic("called unwrap() on a None value")

    monkeypatch.setattr("polars.read_parquet", read_parquet)
    (tmp_path / "items.parquet").touch()
    with pytest.raises(DataError, match=r"items.parquet is not a readable .*called unwrap.*: write it again"):
        store.read_parquet(tmp_path / "items.parquet", remedy="write it again")
