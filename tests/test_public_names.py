"""The package's public names: complete, lazy, and clear where an extra is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xcrossrec
from xcrossrec.exceptions import MissingExtraError
from xcrossrec.extras import EXTRAS, require
from xcrossrec.training.trackers import check_tracker

HEAVY = ("torch", "transformers", "sentence_transformers", "peft", "sklearn", "datasets")


def test_every_public_name_can_be_had_and_is_documented() -> None:
    assert set(xcrossrec.__all__) == {*xcrossrec._PUBLIC, "__version__"}
    assert sorted(xcrossrec.__all__) == xcrossrec.__all__
    for name in xcrossrec.__all__:
        assert getattr(xcrossrec, name) is not None
        assert name in dir(xcrossrec)
    assert xcrossrec.load.__module__ == "xcrossrec.models.bundle"
    assert xcrossrec.Recommender.__module__ == "xcrossrec.recommender.recommender"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'xcrossrec' has no attribute 'recommender_of'"):
        _ = xcrossrec.recommender_of


def test_importing_the_package_and_its_data_part_needs_nothing_heavy() -> None:
    code = (
        "import sys, xcrossrec, xcrossrec.cli\n"
        "xcrossrec.read_domain, xcrossrec.evaluate, xcrossrec.sample_market, xcrossrec.source_config\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc, as Linux has it")
def test_importing_everything_starts_no_thread_of_polars() -> None:
    """Else a process that is forked afterwards waits for ever at its first table."""
    code = (
        "import pkgutil, pathlib, xcrossrec\n"
        "for each in pkgutil.walk_packages(xcrossrec.__path__, 'xcrossrec.'):\n"
        "    each.name.endswith('__main__') or __import__(each.name)\n"
        "print({path.read_text().strip() for path in pathlib.Path('/proc/self/task').glob('*/comm')})"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "polars-0" not in done.stdout


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("load", "torch", "models"), ("Recommender", "peft", "models"), ("train_source", "tensorboard", "train")],
)
def test_a_missing_extra_names_its_install_line(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(xcrossrec, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs '{module}'.*pip install 'xcrossrec\[{extra}\]'"):
        getattr(xcrossrec, name)


def test_the_tracker_that_training_brings_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an install without extras it was named as a package of its own, and torch was said next."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"needs 'tensorboard'.*pip install 'xcrossrec\[train\]'"):
        check_tracker("tensorboard")


def test_extras_that_are_there_are_accepted() -> None:
    for extra in EXTRAS:
        require(extra)
