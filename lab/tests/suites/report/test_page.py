from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xcrossrec import ConfigError
from xcrossrec_lab.cli import app
from xcrossrec_lab.report.page import write_report
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

from .conftest import METHODS, ranks, write_cells


def test_other_forms_are_compared_with_lora_too(suite_file, tmp_path: Path, points: Points) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(path.read_text().replace('ours = "xcross"', 'ours = "xcross"\nforms = ["lora"]'))
    suite = Suite.read(path)
    page = write_report(suite, CellFiles(tmp_path / "run"), tmp_path / "page").read_text()
    assert page.index("# Claims, about `lora`") > page.index("# Claims, about `xcross`")
    path.write_text(path.read_text().replace('"lora"]', '"absent"]', 1))
    with pytest.raises(ConfigError, match="a method 'absent' that has no"):
        Suite.read(path)


def test_a_suite_without_full_ranking_claims_nothing_about_it(suite_file, tmp_path: Path) -> None:
    path = suite_file(METHODS, "128", "0")
    path.write_text('negatives = ["uniform", "popularity"]\n' + path.read_text())
    suite, files = Suite.read(path), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    result = CliRunner().invoke(
        app, ["report", str(path), "--out", str(tmp_path / "run"), "--to", str(tmp_path / "page")]
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page" / "README.md").read_text()
    assert "cross-domain method, popularity, the first sources" in page
    assert "cross-domain method, full" not in page
    assert "| full | garden |" not in page


def test_report_command_writes_page_and_figures(suite_file, tmp_path: Path, points: Points) -> None:
    command = ["report", str(tmp_path / "suite.toml"), "--to", str(tmp_path / "page"), "--figures"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page" / "README.md").read_text()
    cells = len(Suite.read(tmp_path / "suite.toml").cells())
    assert f"{cells} of {cells} cells are complete" in page
    for picture in tmp_path.glob("page/*.png"):
        assert picture.name in page
    assert {"curves-garden.png", "parameters-128.png", "map-xcross-128.png"} <= {
        p.name for p in tmp_path.glob("page/*.png")
    }


def test_without_figures_the_page_shows_none(tmp_path: Path, points: Points) -> None:
    page = write_report(points.suite, CellFiles(tmp_path / "run"), tmp_path / "page")
    assert ".png" not in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["README.md"]


def test_the_page_has_no_empty_table_and_no_heading_over_nothing(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("lora", "xcross"), "128")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    blocks = write_report(suite, files, tmp_path / "report").read_text().strip().split("\n\n")
    drawn = [block for block in blocks if block.startswith("|")]
    assert drawn
    assert all(len(block.splitlines()) > 2 for block in drawn)
    levels = [len(block) - len(block.lstrip("#")) for block in blocks]
    assert levels[-1] == 0
    assert all(here == 0 or after == 0 or after > here for here, after in pairwise(levels))
    assert not any("seed by seed" in block for block in blocks), "one seed has no spread"
    assert not list((tmp_path / "report").glob("curves-*")), "one number of users makes no curve"


def test_a_report_without_cells_says_what_to_run(suite_file, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(suite_file())])
    assert result.exit_code == 2
    assert "no cell of 'tiny' is complete" in result.stderr
