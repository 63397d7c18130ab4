"""The tables of docs/evidence.md: filled where the page names them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xcrossrec_lab.report import evidence_page as tables

ROOT = Path(__file__).resolve().parents[4]


def test_a_table_is_replaced_and_the_text_around_it_stays() -> None:
    page = "before\n<!-- table data -->\n| old |\n<!-- end -->\nafter <!-- table data -->\n<!-- end -->\n"
    filled = tables.filled(page, {"data": lambda: "| new |"})
    assert filled == (
        "before\n<!-- table data -->\n| new |\n<!-- end -->\nafter <!-- table data -->\n| new |\n<!-- end -->\n"
    )


def test_a_table_without_a_maker_is_refused() -> None:
    with pytest.raises(KeyError, match="unknown"):
        tables.filled("<!-- table unknown -->\n<!-- end -->", {})


def test_the_page_has_every_table_once_and_no_other() -> None:
    named = re.findall(r"<!-- table (\S+) -->", tables.PAGE.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(tables.TABLES)


def test_every_method_with_a_name_on_the_page_is_one_of_its_suites() -> None:
    for suites, names in ((("amazon", "unused"), tables.DUAL), (("pair",), tables.PAIR)):
        read = [tables.Suite.read(ROOT / tables.SUITES / f"{suite}.toml") for suite in suites]
        assert set(names) <= {method for suite in read for method in suite.methods}


def test_a_page_is_not_emptied_where_no_cell_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table data -->\n| old |\n<!-- end -->\n")
    (tmp_path / tables.SUITES).mkdir(parents=True)
    suite = (ROOT / tables.SUITES / "amazon.toml").read_text()
    (tmp_path / tables.SUITES / "amazon.toml").write_text(suite)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "PAGE", page)
    tables.points.cache_clear()
    with pytest.raises(SystemExit, match=r"runs/evidence/amazon has no finished cell: run `xcrossrec-lab restore"):
        tables.main([])
    assert "| old |" in page.read_text()
