"""A sidecar or PEFT config that is damaged is refused by a sentence, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xcrossrec.exceptions import BundleError
from xcrossrec.models.adapters import ADAPTER_CONFIG, MANIFEST, read_manifest
from xcrossrec.training.target import build_target_model


@pytest.mark.parametrize("base", [{"name": "some-base"}, "some-base", None, {"name": 1, "digest": "00"}])
def test_a_base_without_name_or_digest(tmp_path: Path, base: object) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"base": base}), encoding="utf-8")
    with pytest.raises(BundleError, match="names its base as"):
        read_manifest(tmp_path)


def test_a_damaged_adapter_config(tmp_path: Path) -> None:
    (tmp_path / ADAPTER_CONFIG).write_text('{"peft_type": ', encoding="utf-8")
    with pytest.raises(BundleError, match="not valid JSON"):
        build_target_model([tmp_path, tmp_path])
