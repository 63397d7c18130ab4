"""What is read while training is what the domain says, and it is recorded; sources of another text are said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from xcrossrec.baselines.named import scorer_for
from xcrossrec.config import TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.data.text import ItemText
from xcrossrec.exceptions import DataError
from xcrossrec.models import bundle
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.scorer import as_read
from xcrossrec.training import loop
from xcrossrec.training.source import train_source
from xcrossrec.training.target import train_target

BRANDED = ItemText("{title}; {brand}")


def branded(domain: Domain) -> Domain:
    brands = pl.Series("brand", [f"w{40 + row % 4}" if row % 3 else None for row in range(domain.items.height)])
    items = domain.items.with_columns(brands)
    return Domain(domain.name, items, domain.interactions, domain.manifest, BRANDED)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Whatever the trainings of a test were given to read."""
    seen: list[list[str]] = []
    real = loop.item_texts
    monkeypatch.setattr(loop, "item_texts", lambda texts: seen.append(list(texts)) or real(texts))
    return seen


def test_source_and_target_read_their_domains_texts(
    two_sources: list[Path],
    tiny_base: str,
    domain_named: Callable[..., Domain],
    settings: Callable[..., TrainingConfig],
    read: list[list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {"config": settings(epochs=1, holdout_share=0.0), "budget": 16, "show_progress": False}
    source, target = branded(domain_named("third", seed=3)), branded(domain_named("target", seed=7))
    with caplog.at_level(logging.WARNING):
        train_source(source, tmp_path / "third", base=tiny_base, **options)
        train_target(target, [two_sources[0], tmp_path / "third"], tmp_path / "target", **options)
    (warning,) = [each for each in caplog.messages if "hardly reads" not in each]  # the tiny base
    assert f"{two_sources[0]} was trained on the item text '{{title}}', and reads '{{title}}; {{brand}}'" in warning
    assert read == [source.texts, target.texts]
    for name in ("third", "target"):
        assert encoder_of(bundle.load(tmp_path / name)).text == BRANDED
        assert bundle.read_bundle_manifest(tmp_path / name)["text"] == BRANDED.template
    records = bundle.read_bundle_manifest(tmp_path / "target")["sources"]
    assert [record["text"] for record in records] == ["{title}", BRANDED.template]
    _evaluates_by_its_own_text(tmp_path / "target", target)
    caplog.clear()
    train_source(source, tmp_path / "again", init=two_sources[0], **options)
    assert "was trained on the item text '{title}'" in caplog.text


def _evaluates_by_its_own_text(folder: Path, domain: Domain) -> None:
    """Whatever the domain says is read, the model's own text is; without its field it is refused."""
    wanted = scorer_for(str(folder), domain).scorer.score([[0, 1]])
    as_titles = Domain(domain.name, domain.items, domain.interactions)
    assert as_read(folder, as_titles).texts == domain.texts
    np.testing.assert_array_equal(scorer_for(str(folder), as_titles).scorer.score([[0, 1]]), wanted)
    with pytest.raises(DataError, match="domain 'target' has no 'brand', which is read"):
        scorer_for(str(folder), Domain(domain.name, domain.items.drop("brand"), domain.interactions))


def test_baselines_and_foreign_adapters_read_what_the_domain_says(
    tiny_base: str, domain_named: Callable[..., Domain], two_sources: list[Path], tmp_path: Path
) -> None:
    domain = branded(domain_named("target", seed=7))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (foreign / name).write_bytes((two_sources[0] / name).read_bytes())
    assert as_read(foreign, domain) is domain
    assert as_read(two_sources[0], domain).texts == domain.titles
    untrained: Any = scorer_for("baseline:untrained", domain, base=tiny_base).scorer
    model: Model = untrained.model
    vectors = model.encode(domain.texts, convert_to_tensor=True, normalize_embeddings=True)
    expected = (vectors[0] @ vectors.T).numpy()
    np.testing.assert_allclose(untrained.score([[0]])[0], expected, atol=1e-5)
    torch.testing.assert_close(untrained.inner.vectors, vectors, atol=1e-5, rtol=0)
