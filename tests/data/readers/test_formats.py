from pathlib import Path

import pytest

from xcrossrec.data.readers import FORMATS, Inputs, form_of, import_domain
from xcrossrec.exceptions import ConfigError

FILE = Path("f")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown format 'xml': choose one of amazon2014"):
        import_domain("m", "xml", Inputs())


@pytest.mark.parametrize(
    ("name", "form"),
    [("p.csv", "csv"), ("p.csv.gz", "csv"), ("p.parquet", "parquet"), ("P.JSONL.GZ", "jsonl"), ("p.inter", "recbole")],
)
def test_the_name_of_a_file_tells_its_format(name: str, form: str) -> None:
    assert form_of(Inputs(Path(name), Path("items.csv"))) == form
    assert form_of(Inputs(items=Path("items.csv"), splits={"train": Path(name)})) == form


@pytest.mark.parametrize(
    ("form", "inputs", "message"),
    [
        ("amazon2018", Inputs(FILE), "format amazon2018 takes a file of interactions and a file of items"),
        ("amazon2014", Inputs(FILE, FILE, {"train": FILE}), "no files that come split"),
        ("amazon2023", Inputs(items=FILE), "give both"),
        ("recbole", Inputs(FILE, FILE, {"train": FILE}), "format recbole takes either one file of interactions or"),
        ("csv", Inputs(items=FILE), "either one file of interactions or files that come split"),
        ("parquet", Inputs(FILE, FILE, {"train": FILE}), "give one of the two"),
        ("jsonl", Inputs(splits={"train": FILE}), "need the items"),
        ("csv", Inputs(items=FILE, splits={"test": FILE}), "at least train"),
    ],
)
def test_inputs_that_do_not_belong_to_a_format_are_refused(form: str, inputs: Inputs, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FORMATS[form](inputs)
