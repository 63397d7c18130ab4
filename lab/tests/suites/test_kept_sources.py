"""Source adapters kept without users' ids, and made whole again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xcrossrec import DataError, read_domain, source_config, train_source
from xcrossrec.models import bundle
from xcrossrec.training.source import TRAINING_USERS, source_users
from xcrossrec_lab.suites.kept_sources import SOURCES, keep_sources, restore_sources
from xcrossrec_lab.suites.suite import Suite


@pytest.fixture
def suite(suite_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite whose one source was trained on 20 users of garden."""
    found = Suite.read(suite_file(("tfidf",), "16", "0"))
    config = source_config(epochs=1, batch_users=16, precision="fp32", seed=3)
    train_source(
        read_domain(found.data / "garden"),
        tmp_path / "adapters" / "garden",
        config=config,
        base=found.base,
        budget=20,
        show_progress=False,
    )
    monkeypatch.setattr(Suite, "source_names", lambda _: ["garden"])
    return replace(found, adapters=tmp_path / "adapters")


def test_a_source_comes_back_whole(suite: Suite, tmp_path: Path) -> None:
    (kept,) = keep_sources(suite, tmp_path / "kept")
    assert kept == tmp_path / "kept" / SOURCES / "garden"
    assert not (kept / TRAINING_USERS).exists()
    elsewhere = replace(suite, adapters=tmp_path / "elsewhere")
    (made,) = restore_sources(elsewhere, tmp_path / "kept")
    original = suite.adapters / "garden"
    assert source_users(made) == source_users(original)
    assert len(source_users(made)) == 20
    texts = ["aa k", "bb l"]
    before, after = (bundle.load(folder).encode(texts, show_progress_bar=False) for folder in (original, made))
    np.testing.assert_array_equal(before, after)
    assert restore_sources(elsewhere, tmp_path / "kept") == []  # what is there stays


def test_a_source_of_other_data_is_refused_and_nothing_is_written(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = keep_sources(suite, tmp_path / "kept")
    manifest = kept / "xcrossrec.json"
    fingerprint = read_domain(suite.data / "garden").fingerprint
    manifest.write_text(manifest.read_text().replace(fingerprint, "0" * 64))
    elsewhere = replace(suite, adapters=tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"trained on data of fingerprint {'0' * 64}, but .* has {fingerprint}"):
        restore_sources(elsewhere, tmp_path / "kept")
    assert not (tmp_path / "elsewhere").exists()
