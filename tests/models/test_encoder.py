"""What encoders of every form refuse: other bases, other prompts, damaged settings, hostile names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from encoders import SETTINGS, Folders, SourcesOf, edit, merged_over, save_to, xcross_over
from model_families import FAMILIES, fresh_base, write_base
from xcrossrec.exceptions import BaseMismatchError, BundleError, ConfigError, DataError, ModelError
from xcrossrec.models.encoder import TitleEncoder, check_sources
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder

Made = tuple[type[TitleEncoder], Path]


@pytest.fixture(params=["source", "merged", "xcross"])
def saved(request: pytest.FixtureRequest, base_of: Folders, sources_of: SourcesOf, tmp_path: Path) -> Made:
    """An encoder's class and a folder of it."""
    makers: dict[str, Callable[[], TitleEncoder]] = {
        "source": lambda: SourceEncoder(fresh_base(base_of("bert")), default_lora(2)),
        "merged": lambda: merged_over(base_of("bert"), sources_of("bert", 2)),
        "xcross": lambda: xcross_over(base_of("bert"), sources_of("bert", 2)),
    }
    encoder = makers[request.param]()
    return type(encoder), save_to(encoder, tmp_path / "model")


def test_other_base_weights(saved: Made, tmp_path: Path) -> None:
    cls, folder = saved
    wanted = cls.read_settings(folder)["base"]["digest"]
    other = fresh_base(write_base(tmp_path / "other", FAMILIES["bert"], seed=9))
    with pytest.raises(BaseMismatchError, match=rf"weights {wanted[:12]}.*{other.digest[:12]}: restore the orig"):
        cls.load(str(folder), base=other)


def test_another_prompt_version(saved: Made) -> None:
    cls, folder = saved
    edit(folder / SETTINGS, '"prompt_version": 1', '"prompt_version": 7')
    with pytest.raises(BundleError, match="prompt version 7, this release writes 1"):
        cls.load(str(folder))


@pytest.mark.parametrize("cls", [SourceEncoder, MergedEncoder, XCrossEncoder])
def test_missing_or_broken_settings(cls: type[TitleEncoder], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no xcrossrec_encoder\.json"):
        cls.load(str(tmp_path))
    (tmp_path / SETTINGS).write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="is not valid JSON"):
        cls.load(str(tmp_path))


@pytest.mark.parametrize("hostile", ["../source0", "..", "a/b", ""])
@pytest.mark.parametrize("saved", ["merged", "xcross"], indirect=True)
def test_a_source_name_that_leaves_the_folder(saved: Made, hostile: str) -> None:
    cls, folder = saved
    edit(folder / SETTINGS, '"source0"', f'"{hostile}"')
    with pytest.raises(BundleError, match=rf"xcrossrec_encoder\.json: sources\.0 is '{hostile}'"):
        cls.load(str(folder))


def test_fewer_than_two_sources() -> None:
    with pytest.raises(ModelError, match="at least 2 sources, got 0: load another adapter"):
        check_sources([])


def test_what_is_no_text_and_an_unknown_argument(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")))
    with pytest.raises(DataError, match="expected a title or a prompt as text, got nan"):
        encoder.preprocess([float("nan")])
    with pytest.raises(ConfigError, match="do not know the argument 'padding': leave it out"):
        encoder.preprocess(["w1"], padding="max_length", task="query")


def test_an_unknown_precision(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")))
    with pytest.raises(ConfigError, match="unknown encoding precision 'int4': choose one of fp32, bf16"):
        encoder.precision = "int4"  # type: ignore[assignment]
