from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xcrossrec import DataError
from xcrossrec_lab.report import texts
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

from .conftest import USERS, ranks, write_cells

FIRST = {"words": 20, "title": 30, "fields": 45}


def of_texts(suite_file: Any) -> Path:
    path: Path = suite_file(("lora",), "16", "0, 1")
    given = path.read_text().replace(
        'targets = ["garden"]', 'targets = ["garden-words", "garden-title", "garden-fields"]'
    )
    path.write_text(given)
    return path


def test_texts_are_compared_user_by_user(suite_file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = of_texts(suite_file)
    suite = Suite.read(path)
    files = CellFiles(suite.out)
    write_cells(suite, files, lambda cell: ranks(FIRST[cell.target.rpartition("-")[2]], cell))
    texts.main([str(path)])
    whole = capsys.readouterr().out.partition("## In the whole catalogue")[2]
    (row,) = [line for line in whole.splitlines() if line.startswith("| garden")]
    cells = [each.strip() for each in row.strip("|").split("|")]
    assert cells[:6] == ["garden", "lora", "2", "0.4000", "0.5500", "0.7750"]
    gain, low = 0.775 / 0.55 - 1, float(cells[6].partition("[")[2].partition("%")[0]) / 100
    assert cells[6].startswith(f"{gain:+.1%} [")
    assert 0 < low < gain


def test_texts_that_rank_other_users_are_not_compared(suite_file: Any, tmp_path: Path) -> None:
    suite = Suite.read(of_texts(suite_file))
    files = CellFiles(suite.out)
    write_cells(suite, files, lambda cell: np.ones(USERS - ("title" in cell.target), dtype=np.int64))
    with pytest.raises(DataError, match="garden-fields ranks 60 users and garden-title 59: import both from the same"):
        texts.text_table(Points(suite, files), "full")
