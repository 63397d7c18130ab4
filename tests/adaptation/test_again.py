"""adapt in a folder that has a model already: who was forgotten in it, what it learned, and where its sources were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import xcrossrec
from conftest import interactions_of
from xcrossrec.adaptation import run
from xcrossrec.adaptation.run import _wanted, adapt
from xcrossrec.copurchase import user_hash
from xcrossrec.data import Domain, build_domain
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.models.bundle import read_bundle_manifest
from xcrossrec.recommender.learn import forget, learn


@pytest.fixture(scope="module")
def target() -> Domain:
    """Three splits of eight customers, of whom each bought three items; too few to train on."""
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(12)], "title": [f"oak {row}" for row in range(12)]})
    bought = {user: " ".join(f"i{(5 * user + step * step) % 12}" for step in range(3)) for user in range(8)}
    splits = ("train", "validation", "test")
    return build_domain(
        "garden",
        items,
        {split: interactions_of({f"{split}{user}": own for user, own in bought.items()}) for split in splits},
    )


@pytest.fixture
def out(target: Domain, tiny_models: Any, tmp_path: Path) -> Path:
    adapt(target, [], out=tmp_path / "out", base=str(tiny_models.base))
    return tmp_path / "out"


def test_who_was_forgotten_comes_back_by_no_other_run_and_what_is_lost_is_said(
    target: Domain, out: Path, tiny_models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, base = out / "model", str(tiny_models.base)
    assert forget(model, "train7") == 3
    with pytest.raises(
        DataError, match=r"1 of the customers who were forgotten in .*model \('train7' first\): import it"
    ):
        adapt(target, out=out, base=base)
    splits = {name: frame.filter(pl.col("user_id") != "train7") for name, frame in target.interactions.items()}
    learn(model, [{"user": "new", "item": "i0", "time": 1}, {"user": "train7", "item": "i1", "time": 1}])
    adapt(build_domain("garden", target.items, splits), out=out, base=base)
    assert f"the former {model} knew 1 more purchases, from `learn`: let it learn their files again" in caplog.messages
    assert read_bundle_manifest(model)["forgotten"] == [user_hash("train7")]
    xcrossrec.load(model)


def test_who_is_forgotten_while_adapt_is_at_work_stays_so(
    target: Domain, out: Path, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = run._fit_all

    def slowly(*given: Any) -> Any:
        assert forget(out / "model", "train7") == 3
        return fit(*given)

    monkeypatch.setattr(run, "_fit_all", slowly)
    adapt(target, out=out, base=str(tiny_models.base))
    assert forget(out / "model", "train7") == 0
    assert read_bundle_manifest(out / "model")["forgotten"] == [user_hash("train7")]


def test_a_source_that_was_moved_is_named_with_what_to_do(target: Domain, tiny_models: Any, tmp_path: Path) -> None:
    given, (kitchen, camping) = tmp_path / "work" / "given.json", tiny_models.sources
    given.parent.mkdir()
    given.write_text(json.dumps({"target": "garden", "sources": {"kitchen": "/gone", "camping": str(camping)}}))
    with pytest.raises(ConfigError, match=r"'kitchen' is no longer at /gone: .*--drop-source kitchen.*--add-s"):
        adapt(target, out=tmp_path)
    assert _wanted(tmp_path, None, [kitchen], ["kitchen"]) == [str(camping), kitchen]
