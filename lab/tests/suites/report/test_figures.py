import struct
from pathlib import Path

from xcrossrec_lab.report.figures import (
    _drawn,
    _name_users,
    _panels,
    _pyplot,
    budget_curves,
    integration_maps,
)
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

from .conftest import METHODS, ranks, write_cells


def test_streams_that_take_nothing_from_each_other_have_no_map(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("xcross",), "128")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    assert integration_maps(Points(suite, files), "xcross", 128, tmp_path / "map.png")
    for cell in suite.cells():
        nothing = {"pairs": ["a to b", "b to a"], "layers": 2 * [{"a to b": 0.0, "b to a": 0.0}]}
        files.write(cell, files.evaluation(cell), files.read(cell) | {"integration_map": nothing})
    assert not integration_maps(Points(suite, files), "xcross", 128, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_figures_leave_out_what_lies_far_below_and_the_checks(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file((*METHODS, "shuffled"), "128, 512", "0")), CellFiles(tmp_path / "run")
    assert suite.methods["shuffled"].settings["shuffle_titles"] is True
    write_cells(suite, files, lambda cell: ranks(30, cell))
    points = Points(suite, files)
    assert {"popularity", "shuffled"} < set(points.methods("garden"))
    assert set(_drawn(points, "garden")) == set(points.methods("garden")) - {"popularity", "shuffled"}


def test_curves_have_a_panel_of_own_forms_and_loras_and_one_of_other_methods(points: Points, tmp_path: Path) -> None:
    own, others = _panels(points, "garden").values()
    assert set(own) == {"lora", "lora-from-source", "xcross"}
    assert "xcross" in others
    assert set(own) | set(others) == set(_drawn(points, "garden"))
    assert budget_curves(points, "garden", "popularity", tmp_path / "curves.png")
    width, height = struct.unpack(">II", (tmp_path / "curves.png").read_bytes()[16:24])
    assert width > 1.5 * height


def test_users_too_close_for_two_names_have_one() -> None:
    figure, axes = _pyplot().subplots()
    _name_users(axes, [2048, 128, 8769, 8192])
    _pyplot().close(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["128", "2,048", "", "8,769"]
