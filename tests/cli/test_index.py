"""The indexing command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain

RUNNER = CliRunner()


@pytest.fixture
def domain_dir(tiny_domain: Domain, tmp_path: Path) -> Path:
    write_domain(tiny_domain, tmp_path / "tiny")
    return tmp_path / "tiny"


def invoke(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["index", *map(str, arguments)], catch_exceptions=False)


def test_it_writes_once_and_again_only_when_asked(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    given = (tiny_models.late, "--catalog", domain_dir, "--out", tmp_path / "index")
    done = invoke(*given, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["items"] == 6
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    refused = invoke(*given)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "index exists: choose another place, or give --overwrite" in refused.stderr
    again = invoke(*given, "--overwrite")
    assert again.stdout.startswith(f"{tmp_path / 'index'}: 6 items, 0.0 MB, in ")


def test_a_faster_precision_gives_nearly_the_same_vectors(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    vectors = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        done = invoke(tiny_models.late, "--catalog", domain_dir, "--out", out, "--precision", precision)
        assert done.exit_code == 0, done.stderr
        vectors[precision] = np.load(out / "vectors.npy")
    assert not np.array_equal(vectors["fp32"], vectors["bf16"])
    np.testing.assert_allclose(vectors["fp32"], vectors["bf16"], atol=0.02)
    refused = invoke(tiny_models.late, "--catalog", domain_dir, "--out", tmp_path / "x", "--precision", "int8")
    assert refused.exit_code == 2


def test_mistakes_are_one_sentence(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    for model, catalog, message in (
        (tiny_models.pair, domain_dir, "a pair model has no vectors"),
        ("/nowhere", domain_dir, "does not exist"),
        (tiny_models.late, "/nowhere", "no domain folder"),
    ):
        done = invoke(model, "--catalog", catalog, "--out", tmp_path / "index")
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "index").exists()
