import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from xcrossrec.catalogue import Purchase, StoredItem
from xcrossrec.catalogue.sqlite import SqliteCatalogue
from xcrossrec.cli import app
from xcrossrec.data import read_domain

RUNNER = CliRunner()


def run(*arguments: object) -> Result:
    return RUNNER.invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def given_files(tmp_path: Path) -> dict[str, Path]:
    """Files as in ../shared/data/amazon, with one item without a title."""
    texts = {
        "items": "item_id,title\ni1,Saw\ni2,Drill &amp; bits\ni3,\ni4,Hammer\n",
        "train": "user_id,item_id,position\nu1,i1,0\nu1,i2,1\nu2,i4,0\nu2,i3,1\nu2,i1,2\n",
        "validation": "user_id,item_id,position\nu3,i2,0\nu3,i4,1\n",
    }
    paths = {name: tmp_path / f"{name}.csv.gz" for name in texts}
    for name, path in paths.items():
        path.write_bytes(gzip.compress(texts[name].encode()))
    return paths


def options(files: dict[str, Path]) -> list[object]:
    return [part for name, path in files.items() for part in (f"--{name}", path)]


def test_import_of_given_files(tmp_path: Path, given_files: dict[str, Path]) -> None:
    result = run("import", "--domain", "tools", *options(given_files), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "tools: 4 items" in result.stdout
    assert "1 items have no title: models read 'untitled item' (i3)" in result.stderr
    assert "HTML entities in 1 titles were converted to characters" in result.stderr
    domain = read_domain(tmp_path / "out")
    assert domain.titles == ["Saw", "Drill & bits", "", "Hammer"]
    assert domain.sequences("train").rows == ((0, 1), (3, 2, 0))
    assert domain.sequences("validation").rows == ((1, 3),)
    assert domain.manifest["filters"]["split"] == "given"


def test_import_of_reviews_with_filters(tmp_path: Path) -> None:
    rows = [(f"u{u}", f"i{(u + t) % 3}", 1_400_000_000_000 + 1000 * t) for u in range(4) for t in range(3)]
    rows.append(("u9", "i9", 1_400_000_000_000))
    reviews, meta = tmp_path / "r.jsonl", tmp_path / "m.jsonl"
    lines = [json.dumps({"user_id": u, "parent_asin": i, "timestamp": t}) for u, i, t in rows]
    reviews.write_text("\n".join(lines))
    titles = [json.dumps({"parent_asin": f"i{i}", "title": f"T{i}"}) for i in range(3)]
    meta.write_text("\n".join(titles))
    base = ["import", "--format", "amazon2023", "--interactions", reviews, "--items", meta, "--domain", "d"]
    refused = run(*base, "--out", tmp_path / "x")
    assert refused.exit_code == 2
    assert "1 interactions with 1 items that its catalogue lacks ('i9')" in refused.stderr
    core = ["--k-core", 2, "--unknown-items", "drop"]
    result = run(*base, *core, "--out", tmp_path / "d")
    assert result.exit_code == 0, result.stderr
    assert "13 interactions read\n           1 left out: their items are not in the catalogue" in result.stderr
    assert "12 interactions kept" in result.stderr
    domain = read_domain(tmp_path / "d")
    assert domain.splits == ("train", "validation", "test")
    assert domain.items.height == 3
    assert domain.manifest["filters"]["core"] == 2


def test_one_table_of_purchases_needs_no_options(tmp_path: Path) -> None:
    rows = [f"u{user},i{item},2026-01-0{item + 1}" for user in range(3) for item in range(4)]
    (tmp_path / "purchases.csv").write_text("\n".join(["customer,sku,date", *rows]))
    (tmp_path / "items.csv").write_text("\n".join(["sku,name", *(f"i{item},Item {item}" for item in range(4))]))
    files = ["--interactions", tmp_path / "purchases.csv", "--items", tmp_path / "items.csv"]
    result = run("import", *files, "--out", tmp_path / "garden")
    assert result.exit_code == 0, result.stderr
    domain = read_domain(str(tmp_path / "garden"))
    assert (domain.name, domain.splits) == ("garden", ("train", "validation", "test"))
    assert domain.sequences("validation").rows == ((0, 1, 2),) * 3


def test_import_with_mapped_columns(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("who,what,name,day\na,x,X,2024-01-02\na,y,Y,2024-01-01\nb,y,Y,2024-01-01\n")
    mapping = [part for pair in ("user=who", "item=what", "time=day") for part in ("--column", pair)]
    times = ["--split", "none"]
    own = ["--format", "csv", "--interactions", tmp_path / "own.csv", "--domain", "d", "--out", tmp_path / "d"]
    assert run("import", *own, *mapping, *times).exit_code == 0
    assert read_domain(tmp_path / "d").sequences("train").rows == ((1, 0),)
    again = run("import", *own, *mapping, *times)
    assert again.exit_code == 2
    assert "already holds a domain" in again.stderr
    assert run("import", *own, *mapping, *times, "--overwrite").exit_code == 0


def test_a_domain_is_not_overwritten_with_what_was_written_to_the_catalogue_beside_it(
    tmp_path: Path, given_files: dict[str, Path]
) -> None:
    """It went with the folder, below a running service too: items and purchases that were acknowledged, and who was
    forgotten."""
    domain, beside = tmp_path / "out", tmp_path / "out" / ".catalogue-0a1b2c3d"
    again = ["import", "--domain", "tools", *options(given_files), "--out", domain, "--overwrite"]
    assert run(*again).exit_code == 0
    saw, vectors = [StoredItem("i1", "Saw")], np.ones((1, 4), dtype=np.float32)
    for write in (
        lambda store: store.upsert([StoredItem("i9", "Own")], vectors),
        lambda store: store.add_purchases([Purchase("u1", "i1")]),
        lambda store: store.forget("u1"),
    ):
        with SqliteCatalogue.create(beside, saw, vectors, fingerprint="f" * 64, overwrite=True) as store:
            refused = run(*again)
            assert (refused.exit_code, "is open in another process" in refused.stderr) == (2, True)
            write(store)
        refused = run(*again)
        assert refused.exit_code == 2
        assert f"{beside} holds what was written over HTTP: move or delete it first" in refused.stderr
        assert read_domain(domain).name == "tools"
    SqliteCatalogue.create(beside, saw, vectors, fingerprint="f" * 64, overwrite=True).close()
    assert run(*again).exit_code == 0, "what it was made of alone can be made again"
    assert not beside.exists()


def test_shares_are_two_numbers(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("user,item,title,date\n" + "".join(f"u{n},i,I,2026-01-01\n" for n in range(8)))
    base = ["import", "--interactions", tmp_path / "p.csv", "--split", "by-user", "--out", tmp_path / "d", "--shares"]
    assert run(*base, "0.25,0").exit_code == 0
    assert read_domain(tmp_path / "d").count_users("train") == 6
    refused = run(*base, "half")
    assert (refused.exit_code, refused.stderr[:45]) == (2, "error: --shares 'half' is not two numbers joi")


def test_import_mistakes_are_one_sentence(tmp_path: Path, given_files: dict[str, Path]) -> None:
    out = ["--domain", "d", "--out", tmp_path / "d"]
    missing = run("import", *out, *options(given_files | {"items": tmp_path / "none.csv"}))
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: cannot read")
    assert "none.csv: it does not exist" in missing.stderr
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(given_files["train"].read_bytes()[:-9])
    assert "cut.csv.gz is a truncated gzip file" in run("import", *out, *options(given_files | {"train": cut})).stderr
    column = run("import", *out, *options(given_files | {"train": given_files["items"]}))
    assert "has no column for the user, it has 'item_id', 'title'" in column.stderr
    header = tmp_path / "empty.csv"
    header.write_text("user_id,item_id,position\n")
    empty = run("import", *out, *options(given_files | {"train": header}))
    assert "holds no interactions: the domain would be empty" in empty.stderr
    assert not (tmp_path / "d").exists()


def test_lint_exits_1_on_serious_findings_only(tmp_path: Path, given_files: dict[str, Path]) -> None:
    files = options(given_files | {"test": given_files["validation"]})
    run("import", "--domain", "bad", *files, "--out", tmp_path / "bad")
    serious = run("lint", tmp_path / "bad", "--json")
    assert serious.exit_code == 1, serious.stderr
    assert "equal_splits" in {found["code"] for found in json.loads(serious.stdout)["findings"]}
    assert "bad" in run("lint", tmp_path / "bad").stdout
    run("market", "--out", tmp_path / "market")
    one = next(path for path in (tmp_path / "market").iterdir() if path.is_dir())
    assert run("lint", one).exit_code == 0
    missing = run("lint", tmp_path / "none")
    assert missing.exit_code == 2
    assert missing.stderr.startswith("error: ")


def test_the_sample_market_is_written_and_labelled(tmp_path: Path) -> None:
    result = run("market", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("(simulated)") == 4
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert all(read_domain(folder).manifest["simulated"] for folder in folders)
    assert len(folders) == 4


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "items", "train", "validation"), [("tools", 5820, 8769, 1096), ("sports", 10036, 15395, 1924)]
)
def test_real_data_have_the_counts_of_the_protocol(
    tmp_path: Path, amazon_dir: Path, name: str, items: int, train: int, validation: int
) -> None:
    files = {part: amazon_dir / name / f"{part}.csv.gz" for part in ("items", "train", "validation")}
    result = run("import", "--domain", name, *options(files), "--out", tmp_path / name, "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["items"], summary["users"]) == (items, {"train": train, "validation": validation})
    lengths = [len(rows) for rows in read_domain(tmp_path / name).sequences("train").rows]
    assert sum(lengths) / len(lengths) == pytest.approx(6.1 if name == "tools" else 6.4, abs=0.05)


def test_import_says_where_the_rows_went_in_a_line_a_reason(tmp_path: Path) -> None:
    head = "customer;sku;date;event_type\n"
    (tmp_path / "orders-1.csv").write_text(head + "".join(f"u;i{n % 3};2026-01-0{n + 1};purchase\n" for n in range(4)))
    (tmp_path / "orders-2.csv").write_text(
        head + "u;i0;2026-02-01;view\n;i1;2026-02-01;purchase\nu;i9;2026-02-02;purchase\n" * 2
    )
    (tmp_path / "items.csv").write_bytes("sku,name,price\ni0,Käse,1\ni1,B,2\ni2,C,3\ni2,D,3\n".encode("cp1252"))
    files = ["--interactions", tmp_path / "orders-*.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "d"]
    refused = run("import", *files)
    assert (refused.exit_code, '--where "event_type=purchase"' in refused.stderr) == (2, True)
    asked = ["--where", "event_type=purchase", "--incomplete", "drop", "--unknown-items", "drop", "--repeats", "keep"]
    result = run("import", *files, *asked, "--separator", ";")
    assert result.exit_code == 2
    assert "its separator seems to be ',' (--separator ',')" in result.stderr
    result = run("import", *files, *asked)
    assert result.exit_code == 0, result.stderr
    reasons = [" ".join(line.split()[:3]) for line in result.stderr.splitlines() if line.startswith("  ")]
    assert reasons == ["10 interactions read", "2 left out:", "2 left out:", "2 left out:", "4 interactions kept"]
    assert "items.csv is read as Windows-1252" in result.stderr
    assert "1 items have several titles, the first was taken (i2: 'C', 'D')" in result.stderr
    assert read_domain(tmp_path / "d").items["price"].to_list() == [1.0, 2.0, 3.0]
    assert run("lint", tmp_path / "d").exit_code == 0


def test_import_joins_users_with_other_categories(tmp_path: Path, given_files: dict[str, Path]) -> None:
    assert run("import", "--domain", "tools", *options(given_files), "--out", tmp_path / "tools").exit_code == 0
    toys = ["import", "--domain", "toys", *options(given_files), "--out", tmp_path / "toys"]
    result = run(*toys, "--shared-users", tmp_path / "tools")
    assert "3 users share their id with tools" in result.stdout
    assert read_domain(tmp_path / "toys").other_histories("train")["u1"] == ("Saw", "Drill & bits")
    missing = run(*toys, "--overwrite", "--shared-users", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "no domain folder at" in missing.stderr


def test_a_market_beside_a_taken_folder_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "market" / "hobby").mkdir(parents=True)
    (tmp_path / "market" / "hobby" / "mine.txt").write_text("mine")
    result = run("market", "--out", tmp_path / "market")
    assert result.exit_code == 2
    assert "hobby exists and is not a domain folder: it is left alone" in result.stderr
    assert [each.name for each in (tmp_path / "market").iterdir()] == ["hobby"]


def test_a_market_that_the_disk_had_no_room_for_goes_on(tmp_path: Path) -> None:
    assert run("market", "--out", tmp_path).exit_code == 0
    shutil.rmtree(tmp_path / "garden")
    made = (tmp_path / "kitchen" / "items.parquet").stat().st_mtime_ns
    assert run("market", "--out", tmp_path).exit_code == 0
    assert (tmp_path / "kitchen" / "items.parquet").stat().st_mtime_ns == made
    assert (tmp_path / "garden" / "items.parquet").exists()
    shutil.rmtree(tmp_path / "garden")
    other = run("market", "--out", tmp_path, "--seed", "1")
    assert "kitchen holds another domain: choose another --out" in other.stderr
    assert not (tmp_path / "garden").exists()


def test_what_was_not_understood_is_printed(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,sku,name,price,date\nu,a,A,call us,2026-01-01\nu,b,B,12,2026-01-02\n")
    options = ("import", "--interactions", tmp_path / "x.csv", "--split", "none", "--out")
    result, as_json = run(*options, tmp_path / "d"), run(*options, tmp_path / "e", "--json")
    assert "price: 1 of 2 not understood, for example 'call us'; left empty" in result.stderr
    said = "1 of 2 not understood, for example 'call us'; left empty"
    assert json.loads(as_json.stdout)["filters"]["not_understood"] == {"price": said}


def test_import_says_who_has_no_order_before_the_last(tmp_path: Path) -> None:
    """Thirty customers with two orders, four with one of three lines: next purchases are predicted, not an order's."""
    lines = [(f"u{n}", f"i{line}", f"2026-01-0{1 + (line > 0)}") for n in range(30) for line in range(3)]
    lines += [(f"v{n}", f"i{line}", "2026-01-05") for n in range(4) for line in range(3)]
    (tmp_path / "orders.csv").write_text("customer,sku,date\n" + "".join(f"{','.join(line)}\n" for line in lines))
    (tmp_path / "items.csv").write_text("sku,title\n" + "".join(f"i{n},Thing {n}\n" for n in range(40)))
    files = ["--interactions", tmp_path / "orders.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "d"]
    result = run("import", *files)
    assert result.exit_code == 0, result.stderr
    assert "4 users have no earlier order in validation or test, and are not evaluated there" in result.stderr
    assert len(read_domain(tmp_path / "d").sequences("test")) == 30
