"""One planted defect for each code that the linter knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec import progress
from xcrossrec.data import Domain, build_domain, write_domain
from xcrossrec.data.lint import Finding, Report, checks, lint
from xcrossrec.data.lint.tables import load_tables
from xcrossrec.exceptions import DataError

CLEAN = {
    "items": "item_id,title\na,Ant\nb,Bee\nc,Cat\nd,Dog\n",
    "train": "user_id,item_id,position\nu0,a,0\nu0,b,1\nu0,c,2\nu1,d,0\nu1,a,1\n",
    "validation": "user_id,item_id,position\nu2,b,0\nu2,c,1\nu2,a,2\n",
}


def csv_folder(root: Path, **changed: str | None) -> Path:
    """Write the clean CSV files with some replaced, or left out where the text is None."""
    root.mkdir(parents=True, exist_ok=True)
    for stem, text in {**CLEAN, **changed}.items():
        if text is not None:
            (root / f"{stem}.csv").write_text(text)
    return root


def found(report: Report) -> dict[str, Finding]:
    return {finding.code: finding for finding in report.findings}


def test_lint_finds_nothing_in_clean_data(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "tiny")
    for source in (tiny_domain, csv_folder(tmp_path / "csv"), tmp_path / "tiny"):
        report = lint([source])
        assert report.findings == ()
        assert report.exit_code == 0
    assert lint([str(tmp_path / "tiny")]).to_text() == "0 errors, 0 warnings in tiny"


def test_a_large_domain_is_told_of_and_its_sequences_are_compared_only_where_as_many_are_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of purchases took minutes without a word, most of them to make Python's objects of each."""
    compared: list[object] = []
    monkeypatch.setattr(checks, "sorted", lambda rows: compared.append(1) or sorted(rows), raising=False)
    folder = csv_folder(tmp_path / "csv")
    assert not list(checks.check_equal_splits(load_tables(folder)))
    assert not compared
    assert list(checks.check_equal_splits(load_tables(csv_folder(tmp_path / "equal", test=CLEAN["validation"]))))
    assert len(compared) == 2
    clock = iter(range(0, 10**6, 7))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    with progress.showing(lines.append):
        lint(folder)
    assert lines[0].startswith("checking: 2 of 17 checks, csv, about")


HEAD = "user_id,item_id,position\n"
ERRORS = {
    "equal_splits": ({"test": HEAD + "u8,b,0\nu8,c,1\nu8,a,2\n"}, 1),
    "shared_users": ({"test": HEAD + "u2,c,0\nu2,d,1\n"}, 1),
    "target_in_history": ({"test": HEAD + "u8,a,0\nu8,b,1\nu8,a,2\n"}, 1),
    "unknown_item": ({"test": HEAD + "u8,a,0\nu8,zebra,1\nu8,yak,2\n"}, 2),
    "unordered_positions": ({"test": HEAD + "u8,a,0\nu8,b,0\n"}, 1),
    "bad_position": ({"test": HEAD + "u8,a,0\nu8,b,1\nu8,c,last\n"}, 1),
    "null_id": ({"test": HEAD + "u8,a,0\nu8,b,1\n,c,0\n"}, 1),
    "duplicate_item": ({"items": CLEAN["items"] + "a,Ape\n"}, 1),
    "empty_domain": ({"train": None}, 1),
    "missing_column": ({"test": "user_id,position\nu8,0\n"}, 1),
    "unordered_timestamps": (
        {"test": "user_id,item_id,position,timestamp\nu8,a,0,50\nu8,b,1,40\nu9,a,0,1\nu9,b,1,1\n"},
        1,
    ),
}
WARNINGS = {
    "empty_title": ({"items": CLEAN["items"].replace("Bee", "NaN").replace("Cat", " ")}, 2),
    "html_entity": ({"items": CLEAN["items"].replace("Bee", "Bee &amp; Wasp")}, 1),
    "html_tag": ({"items": CLEAN["items"].replace("Bee", "Bee <br>")}, 1),
    "duplicate_title": ({"items": CLEAN["items"].replace("Cat", "BEE")}, 2),
    "long_title": ({"items": CLEAN["items"].replace("Bee", "very " * 60 + "long bee")}, 1),
    "title_not_alphanumeric": ({"items": CLEAN["items"].replace("Bee", "--- !")}, 1),
    "never_bought": ({"items": CLEAN["items"] + "e,Eel\n"}, 1),
    "id_whitespace": ({"test": HEAD + "u8 ,a,0\nu8 ,b,1\n"}, 1),
    "repeated_item": ({"test": HEAD + "u8,a,0\nu8,a,1\nu8,b,2\n"}, 1),
    "short_sequence": ({"test": HEAD + "u8,a,0\n"}, 1),
    "cold_target": ({"items": CLEAN["items"] + "e,Eel\n", "test": HEAD + "u8,a,0\nu8,e,1\n"}, 1),
    "unordered_rows": ({"test": HEAD + "u8,a,1\nu8,b,0\n"}, 1),  # sorted when such a file is imported
}


@pytest.mark.parametrize("code", ERRORS)
def test_lint_finds_planted_error(code: str, tmp_path: Path) -> None:
    changed, count = ERRORS[code]
    report = lint([csv_folder(tmp_path / "data", **changed)])
    finding = found(report)[code]
    assert (finding.severity, finding.domain, finding.count) == ("error", "data", count)
    assert 1 <= len(finding.examples) <= 5
    assert report.exit_code == 1


@pytest.mark.parametrize("code", WARNINGS)
def test_lint_finds_planted_warning(code: str, tmp_path: Path) -> None:
    changed, count = WARNINGS[code]
    report = lint([csv_folder(tmp_path / "data", **changed)])
    finding = found(report)[code]
    assert (finding.severity, finding.count) == ("warning", count)
    assert report.exit_code == 0
    assert list(found(report)) == [code]


@pytest.mark.parametrize(
    ("changed", "example"),
    [
        ({"test": HEAD + "u8,A,0\nu8,b,1\n"}, "'A' is 'a'"),
        ({"test": HEAD + "u8,a,0\nu8, b,1\n"}, "' b' is 'b'"),
        (
            {
                "items": "item_id,title\n12,Ant\n0007,Bee\n",
                "train": HEAD + "u0,12,0\nu0,0007,1\n",
                "validation": HEAD + "u2,12.0,0\nu2,7,1\n",
            },
            "'12.0' is '12'",
        ),
        ({"train": HEAD + "5,d,0\n5,a,1\n", "validation": HEAD + "5.0,a,0\n5.0,d,1\n"}, "'5', '5.0'"),
    ],
)
def test_lint_finds_ids_written_differently(changed: dict[str, str], example: str, tmp_path: Path) -> None:
    report = lint([csv_folder(tmp_path, **changed)])
    mismatches = [finding for finding in report.findings if finding.code == "id_mismatch"]
    assert any(example in finding.examples for finding in mismatches)
    assert all(finding.severity == "error" for finding in mismatches)
    assert "unknown_item" not in found(report)


def parquet_folder(domain: Domain, path: Path, **changed: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """Write a domain, then change its files behind its manifest's back."""
    write_domain(domain, path)
    for stem, change in changed.items():
        frame = change(pl.read_parquet(path / f"{stem}.parquet"))
        frame.write_parquet(path / f"{stem}.parquet")
    return path


def test_lint_finds_ids_of_another_type(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [1, 2], "title": ["Ant", "Bee"]})
    train = pl.DataFrame({"user_id": ["u", "u"], "item_id": [1, 2]})
    domain = build_domain("d", items, {"train": train})
    to_fractions = parquet_folder(
        domain, tmp_path / "d", train=lambda frame: frame.with_columns(pl.col("item_id").cast(pl.Float64))
    )
    report = lint([to_fractions])
    mismatch = found(report)["id_mismatch"]
    assert "'1.0' is '1'" in mismatch.examples


def test_lint_finds_a_domain_changed_after_its_import(tiny_domain: Domain, tmp_path: Path) -> None:
    path = parquet_folder(tiny_domain, tmp_path / "d", train=lambda frame: frame.head(8))
    finding = found(lint([path]))["changed_content"]
    assert finding.severity == "error"
    assert "train.parquet is not the file that was written" in finding.message


def test_lint_finds_rows_out_of_order_in_a_domain(tiny_domain: Domain, tmp_path: Path) -> None:
    path = parquet_folder(tiny_domain, tmp_path / "d", train=lambda frame: frame.reverse())
    finding = found(lint([path]))["unordered_rows"]
    assert (finding.severity, finding.split, finding.count) == ("error", "train", 3)


def test_lint_reads_folders_without_or_with_a_broken_manifest(tiny_domain: Domain, tmp_path: Path) -> None:
    write_domain(tiny_domain, tmp_path / "d")
    (tmp_path / "d" / "manifest.json").write_text("{broken")
    assert list(found(lint([tmp_path / "d"]))) == ["changed_content"]
    (tmp_path / "d" / "manifest.json").unlink()
    report = lint([tmp_path / "d"])
    assert report.findings == ()
    assert report.domains == ("d",)


def test_lint_takes_users_shared_by_design_as_a_warning(tiny_domain: Domain) -> None:
    splits: dict[Any, pl.DataFrame] = dict(tiny_domain.interactions)
    splits["test"] = splits["train"].head(2)
    for split, severity in (("leave_last_out", "warning"), ("temporal", "warning"), ("given", "error")):
        domain = build_domain("d", tiny_domain.items, splits, manifest={"filters": {"split": split}})
        assert found(lint([domain]))["shared_users"].severity == severity


def test_lint_counts_what_train_knows_too_early() -> None:
    items = pl.DataFrame({"item_id": list("abcd"), "title": ["Ant", "Bee", "Cat", "Dog"]})
    columns = ["user_id", "item_id", "timestamp"]
    train = pl.DataFrame([("u", "a", 1), ("u", "b", 6), ("v", "c", 7), ("v", "d", 5)], columns, orient="row")
    test = pl.DataFrame([("w", "a", 3), ("w", "b", 5)], columns, orient="row")
    domain = build_domain("d", items, {"train": train, "test": test.reverse()})
    finding = found(lint([domain]))["train_after_targets"]
    assert (finding.severity, finding.split, finding.count) == ("warning", "test", 2)
    assert finding.message.startswith("2 of 4 train purchases (50.0%) were made after half of the test targets")
    late = test.with_columns(pl.col("timestamp") + 9)
    assert "train_after_targets" not in found(lint([build_domain("d", items, {"train": train, "test": late})]))


def test_lint_names_who_bought_after_today() -> None:
    items = pl.DataFrame({"item_id": list("ab"), "title": ["Ant", "Bee"]})
    columns = ["user_id", "item_id", "timestamp"]
    train = pl.DataFrame([("u", "a", 10**9), ("u", "b", 4_102_444_800), ("v", "a", 10**9)], columns, orient="row")
    finding = found(lint([build_domain("d", items, {"train": train})]))["future_time"]
    assert (finding.severity, finding.split, finding.count, finding.examples) == ("warning", "train", 1, ("u",))
    before = train.filter(pl.col("timestamp") < 2 * 10**9)
    assert "future_time" not in found(lint([build_domain("d", items, {"train": before})]))


def test_lint_reports_what_the_import_repaired() -> None:
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A &amp; B", "", "C"]})
    train = pl.DataFrame({"user_id": ["u", "u", "u"], "item_id": ["a", "b", "c"]})
    report = lint([build_domain("d", items, {"train": train})])
    assert {code: finding.count for code, finding in found(report).items()} == {
        "empty_title": 1,
        "html_entity": 1,
    }
    assert "which the import converted" in found(report)["html_entity"].message
    assert report.exit_code == 0


def test_lint_finds_users_and_items_in_two_domains(tiny_domain: Domain, tmp_path: Path) -> None:
    other = csv_folder(
        tmp_path / "other",
        items=CLEAN["items"].replace("d,Dog", "i3,Drill"),
        train=CLEAN["train"].replace("d,0", "i3,0").replace("u1", "u4"),
        validation=CLEAN["validation"].replace("u2", "w2"),
    )
    report = lint([tiny_domain, other])
    users, items = (found(report)[f"shared_{kind}_across_domains"] for kind in ("users", "items"))
    assert (users.domain, users.count, users.examples) == ("tiny + other", 2, ("u0", "u4"))
    assert (items.count, items.examples) == (1, ("i3",))
    assert report.exit_code == 0


def test_lint_report_is_fit_for_json(tmp_path: Path) -> None:
    report = lint([csv_folder(tmp_path / "data", test=HEAD + "u2,c,0\nu2,d,1\n")])
    read = json.loads(json.dumps(report.to_dict()))
    assert (read["domains"], read["errors"], read["warnings"]) == (["data"], 1, 0)
    assert read["findings"][0] == {
        "code": "shared_users",
        "severity": "error",
        "domain": "data",
        "split": None,
        "count": 1,
        "examples": ["u2"],
        "message": "1 users are in validation and in test: split by user, or remove them from one",
    }
    assert report.to_text().splitlines()[-1] == "1 errors, 0 warnings in data"


def test_lint_shows_five_examples_at_most(tmp_path: Path) -> None:
    many = "".join(f"x{n},Item {n}\n" for n in range(9))
    finding = found(lint([csv_folder(tmp_path, items=CLEAN["items"] + many)]))["never_bought"]
    assert (finding.count, finding.examples) == (9, ("x0", "x1", "x2", "x3", "x4"))
    assert finding.message.startswith("9 of 13 items occur in no split")


def test_lint_reads_text_as_an_import_does(tmp_path: Path) -> None:
    for encoding, separator in (("utf-16", "\t"), ("cp1252", ";"), ("utf-8-sig", "|")):
        folder = csv_folder(tmp_path / encoding)
        for stem, text in CLEAN.items():
            told = text.replace("Bee", "B\u00e4r").replace(",", separator)
            (folder / f"{stem}.csv").write_bytes(told.encode(encoding))
        assert lint(folder).findings == ()
    (folder / "train.csv").write_text("user_id,item_id,position\nu0,a,0\nu0,b,1,2\n")
    with pytest.raises(DataError, match=r"train.csv, line 3: 4 fields where 3 are expected"):
        lint(folder)


def test_lint_finds_empty_files(tmp_path: Path) -> None:
    report = lint([csv_folder(tmp_path, train=HEAD, test="")])
    assert found(report)["empty_domain"].examples == ("train", "test")
    assert found(lint([csv_folder(tmp_path / "n", items="item_id,title\n")]))["empty_domain"].count == 1


def test_lint_of_a_mark_alone_and_of_lists(tmp_path: Path) -> None:
    marked = csv_folder(tmp_path / "m")
    (marked / "train.csv").write_bytes("".encode("utf-16"))
    assert found(lint([marked]))["empty_domain"].examples == ("train",)
    lists = csv_folder(tmp_path / "l")
    pl.DataFrame({"user_id": ["u"], "item_id": [["a", "b"]]}).write_parquet(lists / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet has item_id of type List\(String\), expected text or numbers"):
        lint([lists])


def test_lint_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder at .*absent \(it does not exist\)"):
        lint([tmp_path / "absent"])
    with pytest.raises(DataError, match=r"has no catalogue: expected items.parquet"):
        lint([tmp_path])
    csv_folder(tmp_path / "cut")
    (tmp_path / "cut" / "items.csv").rename(tmp_path / "cut" / "items.parquet")
    with pytest.raises(DataError, match=r"items.parquet is not a readable Parquet file"):
        lint([tmp_path / "cut"])


@pytest.mark.real_data
def test_lint_finds_the_known_defects_of_sports(amazon_dir: Path) -> None:
    report = lint([amazon_dir / "sports", amazon_dir / "tools"])
    sports = {(f.code, f.split): f for f in report.findings if f.domain == "sports"}
    assert sports["empty_title", None].count == 3
    assert sports["target_in_history", "validation"].count == 9
    assert ("unknown_item", "train") not in sports
    assert found(report)["shared_users_across_domains"].domain == "sports + tools"
    assert report.exit_code == 1


def _bought(*rows: tuple[str, str, int]) -> Domain:
    """A test split of these, and a train split of one that says nothing."""
    table = [{"user_id": user, "item_id": item, "timestamp": time} for user, item, time in rows]
    items = [{"item_id": item, "title": f"Title {item}"} for item in sorted({item for _, item, _ in rows})]
    return build_domain("d", items, {"train": table[:1], "test": table})


def test_lint_tells_of_targets_that_stand_at_the_time_of_their_history() -> None:
    """Of orders of several lines the file's order alone says which is the last."""
    orders = [(f"u{n}", item, 1_700_000_000 + n + 9 * (item == "b")) for n in range(40) for item in "ab"]
    assert "same_moment" not in {each.code for each in lint([_bought(*orders)]).findings}
    lines = [(f"v{n}", item, 1_700_000_000) for n in range(10) for item in "ab"]
    finding = next(each for each in lint([_bought(*orders, *lines)]).findings if each.code == "same_moment")
    assert (finding.split, finding.severity, finding.count) == ("test", "warning", 10)
    assert finding.message.startswith("10 of 50 targets (20.0%) have the same time as the item before them")


def test_lint_tells_what_so_many_buy_that_it_may_be_no_product() -> None:
    orders = [(f"u{n}", f"i{n % 17}{step}", 1_700_000_000 + step) for n in range(150) for step in range(3)]
    assert "common_item" not in {each.code for each in lint([_bought(*orders)]).findings}
    shipping = [(f"u{n}", "SHIP", 1_700_000_009) for n in range(51)]
    finding = next(each for each in lint([_bought(*orders, *shipping)]).findings if each.code == "common_item")
    assert (finding.split, finding.count, finding.examples) == ("test", 1, ("SHIP 'Title SHIP'",))
    assert "common_item" not in {each.code for each in lint([_bought(*orders, *shipping[:50])]).findings}


def test_repeats_that_were_kept_are_no_error() -> None:
    rows = {"train": [{"user_id": "u", "item_id": item, "position": n} for n, item in enumerate("aba")]}
    items = [{"item_id": item, "title": f"Title {item}"} for item in "ab"]
    plain = lint([build_domain("d", items, rows)])
    assert "--repeats keep" in next(f.message for f in plain.of("error") if f.code == "target_in_history")
    kept = lint([build_domain("d", items, rows, manifest={"filters": {"repeats": "keep"}})])
    assert not kept.of("error")
    assert "by design of --repeats keep" in next(f.message for f in kept.findings if f.code == "target_in_history")
