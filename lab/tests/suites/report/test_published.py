"""The committed pages: what the kept cells give."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from xcrossrec import ConfigError
from xcrossrec_lab.cli import app
from xcrossrec_lab.report import published


def test_the_kept_cells_of_a_suite_give_its_committed_page() -> None:
    assert published.differing(["amazon-long"]) == []


def test_a_page_that_differs_is_found_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "evidence" / "amazon-long"
    kept.parent.mkdir()
    kept.symlink_to(published.RESULTS / "evidence" / "amazon-long")
    committed = (kept / "README.md").read_text()
    folder = tmp_path / "own" / "evidence" / "amazon-long"
    folder.mkdir(parents=True)
    for part in ("cells.json.xz", "ranks"):
        (folder / part).symlink_to(kept.resolve() / part)
    (folder / "README.md").write_text(committed.replace("| .", "| .0", 1))
    monkeypatch.setattr(published, "RESULTS", tmp_path / "own")
    monkeypatch.setattr(published, "SUITES", ("amazon-long",))
    assert published.differing(["amazon-long"]) == [folder / "README.md"]
    published.write_pages(["amazon-long"])
    assert (folder / "README.md").read_text() == committed
    assert not list(folder.glob("*.new"))


def test_every_suite_has_all_the_methods_of_its_rows() -> None:
    for row in published.ROWS:
        methods = published.suite_of(row.suite).methods
        assert {published.OURS, *row.rivals} <= set(methods), row


def test_the_table_is_replaced_and_the_text_around_it_stays() -> None:
    page = "before\n<!-- table -->\n| old |\n<!-- end -->\nafter\n"
    assert published.filled(page, "| new |") == page.replace("| old |", "| new |")
    with pytest.raises(ConfigError, match="no place for its table"):
        published.filled("before\n", "| new |")


def test_the_command_names_the_pages_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "differing", lambda: [Path("docs/evidence.md")])
    result = CliRunner().invoke(app, ["pages", "--check"])
    assert (result.exit_code, result.stdout) == (1, "not what the kept cells give: docs/evidence.md\n")
    monkeypatch.setattr(published, "differing", list)
    assert CliRunner().invoke(app, ["pages", "--check"]).exit_code == 0
