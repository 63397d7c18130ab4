"""Mistakes in paths and options are answered at once: before torch or transformers is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xcrossrec.catalogue.files import VERSION
from xcrossrec.catalogue.rows import DATABASE
from xcrossrec.cli import checks
from xcrossrec.data import build_domain, write_domain
from xcrossrec.exceptions import DataError
from xcrossrec.models.adapters import ADAPTER_CONFIG, MANIFEST
from xcrossrec.models.encoder import TitleEncoder

RUN = """
import json, sys
from typer.testing import CliRunner
from xcrossrec.cli import app
answers = []
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words)
    heavy = [name for name in ("torch", "transformers", "datasets", "sklearn") if name in sys.modules]
    answers.append([done.exit_code, done.stdout, " ".join(done.stderr.split()), heavy])
print(json.dumps(answers))
"""

MISTAKES: list[tuple[str, str]] = [
    ("train source NONE --out OUT", "no domain folder at NONE"),
    ("train source MODEL --out OUT", "MODEL is not a domain folder"),
    ("train source DOMAIN --out MODEL", "MODEL exists: choose another place, or allow to overwrite it"),
    ("train source DOMAIN --out OUT --base ./no/base", "base model './no/base' cannot be loaded (there is no such"),
    ("train source DOMAIN --out OUT --base DOMAIN", "cannot be loaded (it has no config.json)"),
    ("train source DOMAIN --out OUT --budget 99", "a budget of 99 users cannot be taken from 3"),
    ("train source DOMAIN --out OUT --config NONE", "settings NONE cannot be read"),
    ("train source DOMAIN --out OUT --config TOML", "unknown training setting 'epoch'"),
    ("train source DOMAIN --out OUT --resume", "nothing to resume in OUT.training"),
    ("train source DOMAIN --out BUSY", "BUSY.training holds an unfinished run: continue it with --resume"),
    ("train source DOMAIN --out OUT --epochs 0", "Invalid value for '--epochs'"),
    ("train target DOMAIN --form lora --out OUT --source NONE", "adapter folder 'NONE' does not exist"),
    ("train target DOMAIN --form lora --out OUT --source DOMAIN", "DOMAIN is no adapter: it has no"),
    ("train target DOMAIN --form lora --out OUT --config TOML", "unknown training setting 'epoch'"),
    ("train target DOMAIN --source ADAPTER --out OUT", "integration needs at least 2 sources, got 1"),
    ("train target DOMAIN --source ADAPTER --source NONE --out OUT", "adapter folder 'NONE' does not exist"),
    ("train target DOMAIN --source ADAPTER --source MODEL --out OUT", "MODEL is no adapter"),
    ("train target DOMAIN --source ADAPTER --source ADAPTER --out OUT --config TOML", "unknown training setting"),
    ("adapt NONE --out OUT", "no domain folder at NONE"),
    ("adapt ADAPTER --source DOMAIN --out OUT", "ADAPTER is an adapter: the new category is a domain's folder"),
    ("adapt DOMAIN --out DOMAIN", "DOMAIN exists, but adapt did not write it: choose another --out"),
    ("adapt DOMAIN --out TOML", "TOML is a file and no folder: choose another place"),
    ("adapt DOMAIN --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("train source DOMAIN --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("evaluate baseline:tfidf DOMAIN --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("recommend-batch MODEL TOML --catalog DOMAIN --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("catalog build MODEL DOMAIN --out TOML/x/y", "TOML is a file and no folder: choose another place"),
    ("export MODEL --to onnx --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("catalog build MODEL DOMAIN --out CIRCLE", "CIRCLE is a link that leads in a circle: remove it, or choose"),
    ("export MODEL --to onnx --out CIRCLE", "CIRCLE is a link that leads in a circle: remove it, or choose"),
    ("data import --interactions NONE --out CIRCLE", "CIRCLE is a link that leads in a circle: remove it"),
    ("inspect CIRCLE", "model folder 'CIRCLE' does not exist"),
    ("inspect LEFT", "an interrupted replacement left"),
    ("serve LEFT --catalog DOMAIN", ".left.0123abcd.retired"),
    ("demo --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("demo --out TOML", "TOML is a file and no folder: choose another place"),
    ("data market --out TOML", "TOML is a file and no folder: choose another place"),
    ("data import --interactions NONE --out TOML/x", "TOML is a file and no folder: choose another place"),
    ("adapt DOMAIN --out OUT --minutes 0", "minutes are 0.0: give more than 0"),
    ("sources DOMAIN", "Missing option '--source'"),
    ("sources ADAPTER --source ADAPTER", "ADAPTER is an adapter: the new category is a domain's folder"),
    ("adapt DOMAIN --source NONE --out OUT", "no domain folder at NONE"),
    ("adapt DOMAIN --add-source MODEL --out OUT", "MODEL is a model: give its category's folder instead"),
    ("sources DOMAIN --source DOMAIN", "DOMAIN is no adapter: it has none of adapter_config.json; train one"),
    ("evaluate NONE DOMAIN", "'NONE' is no model: there is no such folder"),
    ("evaluate DOMAIN DOMAIN", "DOMAIN is no model: it has none of xcrossrec.json, modules.json, adapter_config"),
    ("evaluate baseline:svd DOMAIN", "unknown baseline 'svd': choose one of baseline:popularity"),
    ("evaluate ADAPTER+baseline:tfidf DOMAIN", "'baseline:tfidf' in 'ADAPTER+baseline:tfidf' cannot be part of a mean"),
    ("evaluate baseline:tfidf NONE", "no domain folder at NONE"),
    ("evaluate baseline:tfidf DOMAIN --split test", "has no 'test' split, only train"),
    ("evaluate baseline:tfidf DOMAIN --negatives hard", "--negatives is 'hard': give one or more of uniform,"),
    ("evaluate baseline:untrained DOMAIN --base /no/base", "base model '/no/base' cannot be loaded"),
    ("evaluate baseline:tfidf DOMAIN --out DOMAIN", "DOMAIN is a folder: give the name of a file"),
    ("evaluate MODEL DOMAIN --split train --without brand", "have no column 'brand', they have title"),
    ("evaluate MODEL DOMAIN --split train --without title", "without 'title' nothing of the item text"),
    ("evaluate baseline:itemknn DOMAIN --split train --without title", "reads no text of items"),
    ("compare NONE NONE", "no results file at NONE"),
    ("compare TOML TOML", "TOML is not a readable Parquet file"),
    ("recommend NONE --catalog DOMAIN --history i0", "model folder 'NONE' does not exist"),
    ("recommend MODEL --catalog NONE --history i0", "NONE does not exist: give a domain's folder"),
    ("recommend MODEL --catalog MODEL --history i0", "MODEL is not a domain folder"),
    ("recommend MODEL --catalog TOML --history i0", "its first row has no separator: call its columns item_id"),
    ("recommend MODEL --catalog DOMAIN --history i0 -k 0", "Invalid value for '-k' / '--k'"),
    ("recommend MODEL --catalog DOMAIN --history i0 --price-min 5 --price-max 2", "no price can meet both"),
    ("recommend-batch MODEL NONE --catalog DOMAIN --out OUT", "the users' file NONE does not exist"),
    ("recommend-batch MODEL TOML --catalog DOMAIN --out NONE/x", "the folder NONE does not exist: make it"),
    ("catalog build NONE DOMAIN --out OUT", "model folder 'NONE' does not exist"),
    ("catalog build MODEL NONE --out OUT", "NONE does not exist: give a domain's folder"),
    ("catalog build MODEL DOMAIN --out DOMAIN", "DOMAIN exists: choose another place, or allow to overwrite it"),
    ("catalog embed MODEL NONE", "NONE does not exist: check the path, or make one with xcrossrec catalog build"),
    ("catalog check DOMAIN", "DOMAIN holds no catalogue: check the path, or make one with"),
    ("catalog repair MODEL DOMAIN", "DOMAIN holds no catalogue: check the path, or make one with"),
    ("inspect NONE", "model folder 'NONE' does not exist"),
    ("serve NONE --catalog DOMAIN", "model folder 'NONE' does not exist"),
    ("serve MODEL --catalog NONE", "NONE does not exist: give a domain's folder"),
    ("serve MODEL --catalog DOMAIN --base /no/base", "base model '/no/base' cannot be loaded"),
    ("inspect MODEL --base /no/base", "base model '/no/base' cannot be loaded"),
    ("demo --out DOMAIN", "DOMAIN exists and is not an earlier demo"),
    ("data import --interactions NONE --out DOMAIN", "DOMAIN already holds a domain: choose another path, or let it"),
    ("bases DOMAIN --base /no/base --base /other", "base model '/no/base' cannot be loaded"),
    ("bases DOMAIN --base one --base two", "has no 'validation' split, only train"),
    ("data lint NONE", "no folder at NONE"),
    ("data lint TOML", "no folder at TOML (it is a file)"),
    ("train source TOML --out OUT", "no domain folder at TOML (it is a file)"),
    ("train source DOMAIN --out OUT --base TOML", "cannot be loaded (there is no such"),
    ("train target DOMAIN --form lora --out OUT --source TOML", "adapter folder 'TOML' is a file"),
    ("evaluate TOML DOMAIN", "'TOML' is no model: there is no such folder"),
    ("inspect TOML", "model folder 'TOML' is a file: check the path"),
    ("catalog embed MODEL TOML", "TOML is a file: check the path, or make one"),
    ("recommend-batch MODEL DOMAIN --catalog DOMAIN --out OUT", "the users' file DOMAIN is a folder: give a Parquet"),
    ("export NONE --to onnx --out OUT", "model folder 'NONE' does not exist"),
    ("export MODEL --to vectors --out OUT", "vectors are those of a catalogue's items: give it with --catalog"),
    ("export MODEL --to peft --int8 --out OUT", "--int8 belongs to --to onnx, got --to peft: leave it out"),
    ("export MODEL --to peft --distill --out OUT", "distilling reads the target's items and is measured on its users"),
    ("export MODEL --to vectors --distill --catalog DOMAIN --out OUT", "exported as they are: leave out --distill"),
    ("export MODEL --to onnx --out DOMAIN", "DOMAIN exists: choose another place, or allow to overwrite it"),
    ("export MODEL --to onnx --out DOMAIN --overwrite", "DOMAIN exists and is no earlier export: it is not replaced"),
    ("export MODEL --to onnx --catalog NONE --out OUT", "NONE does not exist: give a domain's folder"),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Every mistake, made one after the other in a process of its own."""
    tmp = tmp_path_factory.mktemp("once")
    bought = [{"user_id": f"u{user}", "item_id": f"i{item}"} for user in range(3) for item in range(2)]
    items = [{"item_id": f"i{item}", "title": f"Item {item}"} for item in range(2)]
    write_domain(build_domain("tiny", items, {"train": bought}), tmp / "domain")
    (tmp / "settings.toml").write_text("epoch = 3")
    (tmp / "busy.training" / "checkpoint-2").mkdir(parents=True)
    (tmp / "busy.training" / "checkpoint-2" / "files.json").write_text("{}")
    (tmp / "circle").symlink_to("circle")
    (tmp / ".left.0123abcd.retired").mkdir()
    places = {
        "DOMAIN": tmp / "domain", "MODEL": tiny_models.late, "ADAPTER": tiny_models.sources[0], "NONE": tmp / "none",
        "CIRCLE": tmp / "circle", "LEFT": tmp / "left",
        "OUT": tmp / "out", "TOML": tmp / "settings.toml", "BUSY": tmp / "busy",
    }  # fmt: skip

    def filled(text: str) -> str:
        for name, path in places.items():
            text = text.replace(name, str(path))
        return text

    commands = [filled(command).split() for command, _ in MISTAKES]
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(commands), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp / "out").exists()
    return [[*answer, filled(said)] for answer, (_, said) in zip(json.loads(done.stdout), MISTAKES, strict=True)]


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_answered_before_anything_heavy_is_loaded(answers: list[Any], number: int) -> None:
    status, printed, told, heavy, said = answers[number]
    assert said in told
    assert (status, printed, heavy) == (2, "", [])


def test_what_is_checked_has_the_names_that_are_written() -> None:
    assert (*checks.CATALOGUE, checks.ADAPTER, checks.MODEL[0]) == (DATABASE, VERSION, ADAPTER_CONFIG, MANIFEST)
    assert TitleEncoder.config_file_name == checks.ENCODER


def test_a_name_may_be_a_hub_s() -> None:
    checks.check_base("sentence-transformers/all-MiniLM-L6-v2")
    checks.check_base(None)


def test_a_file_needs_a_folder(tmp_path: Path) -> None:
    checks.check_file(tmp_path / "new.parquet")
    with pytest.raises(DataError, match="is a folder: give the name of a file"):
        checks.check_file(tmp_path)
