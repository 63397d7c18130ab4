"""What the command line reads, without starting a service."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.cli.serve import specs_of
from xcrossrec.exceptions import ConfigError

RUNNER = CliRunner()


def test_models_are_joined_with_their_catalogues() -> None:
    (spec,) = specs_of(["models/toys"], ["data/toys"], "fp32")
    assert (spec.name, spec.path, spec.catalog) == ("toys", Path("models/toys"), Path("data/toys"))
    specs = specs_of(["a=m/one", "b=m/two", "m/three"], ["b=c/two", "c/rest"], "bf16")
    assert {spec.name: (str(spec.path), str(spec.catalog)) for spec in specs} == {
        "a": ("m/one", "c/rest"),
        "b": ("m/two", "c/two"),
        "three": ("m/three", "c/rest"),
    }
    assert {spec.precision for spec in specs} == {"bf16"}


@pytest.mark.parametrize(
    ("models", "catalogs", "said"),
    [
        (["a=m"], ["b=c"], "the catalogue 'b' belongs to no model: there is a"),
        (["a=m", "b=n"], ["b=c"], "the model 'a' has no catalogue: add --catalog a=DIR"),
        (["a=m"], ["c", "d"], "2 catalogues have no name: write each as NAME=DIR"),
        (["x/m", "y/m"], ["c"], "two models are called 'm'"),
        (["a=m", "a=n"], ["c"], "'a' names no model"),
        (["a="], ["c"], "'a' names no model"),
        (["a=m"], ["postgresql://u:secret@h/d", "d"], "2 catalogues have no name"),
        (["a=m"], ["a=b", "a=postgresql://u:secret@h/d"], "'a' names no catalog"),
    ],
)
def test_what_cannot_be_joined(models: list[str], catalogs: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        specs_of(models, catalogs, "fp32")
    assert "secret" not in str(told.value)


def test_mistakes_end_in_a_sentence(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["serve", str(tmp_path / "none"), "--catalog", str(tmp_path), "--host", "0.0.0.0"])
    assert done.exit_code == 2
    assert "XCROSSREC_API_KEYS" in done.stderr
    queue = RUNNER.invoke(app, ["serve", "m", "--catalog", "c"], env={"XCROSSREC_QUEUE": "0"})
    assert queue.exit_code == 2
    assert "queue is 0" in queue.stderr
