"""Catalogues on disk that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from damaged_catalogue import written
from xcrossrec.catalogue import scan as scan_module


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A catalogue that was closed, and one whose process was killed: all that it wrote is in the log."""
    place = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "QUANTISE_FROM", 8)
        store = written(place / "closed")
        shutil.copytree(place / "closed", place / "crashed")
        store.close()
    return place / "closed", place / "crashed"


@pytest.fixture
def closed(images: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(images[0], tmp_path / "catalogue")


@pytest.fixture
def crashed(images: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(images[1], tmp_path / "catalogue")
