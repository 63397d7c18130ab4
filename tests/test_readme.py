"""The documents are held to the code: the README's blocks run, and every option, setting and code is described."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

import xcrossrec
from xcrossrec.cli import app
from xcrossrec.config import TrainingConfig, source_config, target_config
from xcrossrec.data import Domain
from xcrossrec.data.lint.report import ERRORS
from xcrossrec.data.market import MarketSettings, sample_market

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
STEPS = ROOT / "docs" / "steps.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RUNNER = CliRunner()


def blocks(language: str, document: Path = README) -> list[str]:
    """A document's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def shell_commands(document: Path) -> list[list[str]]:
    """A document's commands, each as words without the program's name; loops are written out."""
    lines = [line for block in blocks("sh", document) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in itertools.chain.from_iterable(map(written_out, lines))]
    assert all(command[0] == "xcrossrec" for command in commands)
    return [command[1:] for command in commands]


def outputs(document: Path, base: Path, training: list[str]) -> dict[str, str]:
    """What each command prints, in order, with a tiny base and so few customers that `adapt` trains nothing on them."""
    market = sample_market(0, MarketSettings(train_users=22, validation_users=4, test_users=4))
    for name in ("kitchen", "camping", "garden"):
        write_tables(market[name], Path(name))
    printed = {}
    for command in shell_commands(document):
        extra = training if command[0] == "train" else []
        extra += ["--base", str(base)] if command[0] == "adapt" or command[1] in ("source", "lora") else []
        done = RUNNER.invoke(app, ["-q", *command, *extra], catch_exceptions=False)
        assert done.exit_code == 0, (command, done.stdout, done.stderr)
        printed[" ".join(command[:3])] = done.stdout
    return printed


def written_out(line: str) -> list[str]:
    loop = re.fullmatch(r"for (\w+) in (.+); do (.+); done", line)
    return [loop[3].replace(f"${loop[1]}", value) for value in loop[2].split()] if loop else [line]


def write_tables(domain: Domain, folder: Path) -> None:
    """What people have: one table of items, here of those that were bought, and one of purchases with times."""
    folder.mkdir()
    bought = pl.concat(domain.frame(split) for split in domain.splits)
    domain.items.join(bought, on="item_id", how="semi").write_csv(folder / "items.csv")
    day = pl.date(2026, 1, 1) + pl.duration(days=pl.col("position"))
    bought.select("user_id", "item_id", day.alias("date")).write_csv(folder / "purchases.csv")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what a reader may copy


def test_the_readmes_commands_run(elsewhere: Path, tiny_models: Any) -> None:
    assert len(blocks("sh")[0].splitlines()) == 2, "from two tables to the report are two commands"
    printed = outputs(README, tiny_models.base, [])
    assert (elsewhere / "models/garden/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    decided = printed["adapt data/garden --add-source"]
    assert "kitchen" in decided
    assert "Learn:  xcrossrec learn models/garden/model --interactions data/garden\n" in decided
    assert "Serve:  xcrossrec serve models/garden/model --catalog data/garden" in decided
    assert len(re.findall(r"^ *\d\. ", printed["recommend models/garden/model --catalog"], flags=re.MULTILINE)) == 5
    assert not (elsewhere / "runs").exists()


def test_the_single_steps_run(elsewhere: Path, tiny_models: Any) -> None:
    printed = outputs(STEPS, tiny_models.base, ["--epochs", "1"])
    assert "0 errors" in printed["data lint data/kitchen"]
    compared = printed["compare steps.parquet lora.parquet"]
    assert re.match(r"steps (ranks|cannot).* lora: MRR .* against popularity negatives\.", compared)
    assert "MRR of steps  MRR of lora" in compared
    assert printed["recommend models/steps --catalog"].count("Best match in the history: Wooden raised garden bed") == 5


def test_the_readmes_python_runs(
    elsewhere: Path, tiny_models: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python")
    source, target = source_config(epochs=1), target_config(epochs=1)
    trained = partial(xcrossrec.train_source, base=str(tiny_models.base), config=source)
    monkeypatch.setattr(xcrossrec, "train_source", trained)
    monkeypatch.setattr(xcrossrec, "train_target", partial(xcrossrec.train_target, config=target))
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.count("Best match in the history") == 3
    assert len(code.splitlines()) <= 11


def test_the_example_runs(
    elsewhere: Path, tiny_models: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "examples" / "adapt_new_domain.py"
    options = {"out": elsewhere / "out", "base": tiny_models.base, "users": 40, "budget": 36, "epochs": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", [str(script), *words, "--target-epochs", "1"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "0 errors" in printed
    assert len(re.findall(r"^(uniform|popularity|full): MRR", printed, flags=re.MULTILINE)) == 3
    assert "3. " in printed


# ---- what documents say of the code


def walk(command: Any, name: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """All commands below one, with their full names."""
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [found for part, below in command.commands.items() for found in walk(below, (*name, part))]


def section(text: str, name: tuple[str, ...]) -> str:
    """The part of docs/cli.md whose heading names a command."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [part for part in parts if " ".join(name) in [each.strip() for each in part.split("\n")[0].split(",")]]
    return found


def test_every_option_is_described_and_no_other() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    of_section: dict[str, set[str]] = {}
    for name, command in walk(typer.main.get_command(app)):
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        options = {o for p in shown for o in p.opts if o.startswith("--")} - {"--help"}
        own = section(text, name)
        assert not options - set(re.findall(r"--[a-z][a-z0-9-]*", own)), name
        of_section.setdefault(own, set()).update(options)
    for own, options in of_section.items():
        assert not set(re.findall(r"--[a-z][a-z0-9-]*", own)) - options, own.split("\n")[0]


def test_every_command_in_the_documents_exists() -> None:
    known = {" ".join(name) for name, _ in walk(typer.main.get_command(app))}
    groups = {name.split()[0] for name in known if " " in name}
    for document in DOCUMENTS:
        for line in document.read_text(encoding="utf-8").splitlines():
            for first, second in re.findall(r"(?:^|`|\()\s*xcrossrec ([a-z]+) ?([a-z]+)?", line):
                command = f"{first} {second}" if first in groups else first
                assert command in known, (document.name, line)


def test_every_training_setting_is_described() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, flags=re.MULTILINE))
    source, target = asdict(source_config()), asdict(target_config())
    for field in fields(TrainingConfig):
        both = source[field.name], target[field.name]
        expected = f"{both[0]}" if both[0] == both[1] else f"source {both[0]}, target {both[1]}"
        assert rows[field.name] == expected, f"docs/method.md says otherwise of {field.name}"


def test_every_linter_code_is_described() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (error|warning)[^|]*\|", text, flags=re.MULTILINE))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/xcrossrec/data/lint").glob("*.py"))
    assert {code for code, severity in rows.items() if severity == "error"} == ERRORS
    used = set(re.findall(r"finding\(\s*\"(\w+)\"", sources)) | set(re.findall(r"^ +\"(\w+)\": \(\n? *\S", sources))
    assert used <= set(rows)
    assert all(f'"{code}"' in sources for code in rows)


def test_every_test_that_a_document_names_exists() -> None:
    for document in DOCUMENTS:
        for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", document.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), (document.name, path)
            assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), (document.name, path, name)


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), (document.name, target)


def test_the_readme_is_short_and_has_its_parts() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 900
    for part in ("## Install", "## The main job", "## Results", "## Limits", "## Citation", "arXiv:2504.20859"):
        assert part in text
