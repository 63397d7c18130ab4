"""How many options there are, and that each is worth a line in docs/cli.md (`tests/test_readme.py` has its meaning)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from xcrossrec.cli import app

MOST = 144
MOST_OF_TRAIN_TARGET = 14


def options_of(command: Any, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every command below one, itself included, with its own options but ``--help``."""
    shown = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    yield name, [p.opts[0] for p in shown if "--help" not in p.opts]
    for part, below in getattr(command, "commands", {}).items():
        yield from options_of(below, f"{name} {part}".strip())


def test_every_command_that_loads_a_model_takes_its_base() -> None:
    found = dict(options_of(typer.main.get_command(app)))
    without = {name for name, options in found.items() if options and "--base" not in options}
    assert without == {"", "compare", "demo", "data import", "data lint", "data market"}


def test_there_are_no_more_options_than_a_person_can_look_through() -> None:
    found = dict(options_of(typer.main.get_command(app)))
    assert sum(map(len, found.values())) <= MOST, {name: len(options) for name, options in found.items()}
    assert len(found["train target"]) <= MOST_OF_TRAIN_TARGET, found["train target"]


def summaries(command: Any) -> list[str]:
    """What the list of commands says of each, at the usual width of 80."""
    below = getattr(command, "commands", {})
    room = 80 - 6 - max(map(len, below), default=0)
    return [text for each in below.values() for text in (each.get_short_help_str(room), *summaries(each))]


def test_the_list_of_commands_is_read_in_whole_sentences() -> None:
    found = summaries(typer.main.get_command(app))
    assert len(found) > 20
    assert [text for text in found if text.endswith("...")] == []
