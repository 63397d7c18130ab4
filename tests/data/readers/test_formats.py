from pathlib import Path

import pytest

from xcrossrec.data.readers import FORMATS, Inputs, import_domain
from xcrossrec.data.readers.tables import read_tables
from xcrossrec.exceptions import ConfigError

FILE = Path("f")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown format 'xml': choose one of amazon2014"):
        import_domain("m", "xml", Inputs())


@pytest.mark.parametrize(
    ("form", "inputs", "message"),
    [
        ("amazon2018", Inputs(FILE), "published reviews need the items with titles"),
        (
            "amazon2014",
            Inputs(FILE, FILE, {"train": FILE}),
            "give purchases once: with .* or already split with .*",
        ),
        ("amazon2023", Inputs(items=FILE), "give purchases once"),
        ("recbole", Inputs(FILE, FILE, {"train": FILE}), "give purchases once: with --interactions, or"),
        ("csv", Inputs(items=FILE), "give purchases once"),
        ("parquet", Inputs(FILE, FILE, {"train": FILE}), "give purchases once"),
        ("jsonl", Inputs(splits={"train": FILE}), "need the items"),
        ("csv", Inputs(items=FILE, splits={"test": FILE}), "at least --train"),
    ],
)
def test_inputs_that_do_not_belong_to_a_format_are_refused(form: str, inputs: Inputs, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_tables(FORMATS[form], inputs)
