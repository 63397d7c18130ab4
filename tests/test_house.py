"""The house's own rules: how much there is, how long a part may be, and a map that is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT, LABORATORY = ROOT / "src", ROOT / "lab" / "src"
TESTS = ROOT / "tests", ROOT / "lab" / "tests"


def modules(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".js"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function below its signature and docstring."""
    body = function.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    rest = body[1:] if documented else body
    return (function.end_lineno or 0) - rest[0].lineno + 1 if rest else 0


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_product_is_small() -> None:
    assert sum(map(lines, modules(PRODUCT))) <= 34_450


def test_no_file_is_long() -> None:
    assert not {path: lines(path) for path in modules(PRODUCT, LABORATORY, *TESTS) if lines(path) > 450}


def test_no_function_is_long() -> None:
    sources = [path for path in modules(PRODUCT, LABORATORY) if path.suffix == ".py"]
    found = {f"{path}:{each.name}": body_lines(each) for path in sources for each in functions(path)}
    assert not {name: size for name, size in found.items() if size > 40}


def test_the_kind_of_scoring_is_asked_of_objects() -> None:
    asked = [line for path in modules(PRODUCT) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(re.search(r"isinstance\(.*CrossEncoder\)", line)) for line in asked) <= 3


def test_results_are_printed_where_what_commands_a_terminal_is_escaped() -> None:
    cli = [path for path in modules(PRODUCT) if path.parent.name == "cli"]
    found = [path.name for path in cli if re.search(r"typer\.s?echo\(|\bprint\(", path.read_text("utf-8"))]
    assert found == ["console.py"]


def test_the_documents_that_people_start_with_are_short() -> None:
    assert lines(ROOT / "README.md") <= 130
    assert lines(ROOT / "docs" / "evidence.md") <= 100


def test_the_map_of_folders_is_complete() -> None:
    (drawn,) = re.findall(r"^## Layout\n(.*?)^## ", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M | re.S)
    package = PRODUCT / "xcrossrec"
    inside = {f"{path.parent.relative_to(package)}/" for path in modules(package)} - {"./"}
    assert set(re.findall(r"^ {6}(\S+/) ", drawn, re.M)) == inside
    single = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    named = re.findall(r"^ {6}((?:\w+, )*\w+)  ", drawn, re.M)
    assert {name for group in named for name in group.split(", ")} == single
