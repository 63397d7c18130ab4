"""Arguments of another kind than a public function is annotated with: refused by name, before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import xcrossrec as xc
from xcrossrec.arguments import checked
from xcrossrec.data import Domain
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.filters import Filters

DOORS = ("__init__", "from_pretrained", "recommend", "score", "explain", "explain_many")


@checked
def asked(
    k: int = 1,
    share: float | None = 0.5,
    way: Literal["up", "down"] = "up",
    places: Sequence[Path | str] = (),
    notes: Mapping[str, int] | None = None,
    *,
    then: Callable[[], None] | None = None,
    table: Any = None,
    strict: bool = False,
) -> list[Any]:
    return [k, share, way, places, notes, then, table, strict]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"k": 2.0}, r"^k is 2\.0: expected a whole number$"),
        ({"k": True}, "^k is True: expected a whole number$"),
        ({"k": np.float64(1.5)}, r"^k is 1\.5: expected a whole number$"),
        ({"share": "much"}, "^share is 'much': expected a number or None$"),
        ({"share": True}, "^share is True: expected a number or None$"),
        ({"way": 1}, "^way is 1: expected a text$"),
        ({"places": "data/garden"}, "^places is 'data/garden': expected a list; put it into one$"),
        ({"places": {"a", "b"}}, "^places is a set: expected a list$"),
        ({"places": (place for place in "ab")}, "^places is a generator: expected a list$"),
        ({"places": pl.DataFrame({"a": [1]})}, "^places is a DataFrame: expected a list$"),
        ({"places": ["a", None]}, r"^places\[1\] is None: expected a path or a text$"),
        ({"places": ["a\0b"]}, r"^places\[0\] is 'a\\x00b': no path holds a zero byte$"),
        ({"notes": [1]}, r"^notes is a list: expected a mapping, as \{name: value\} or None$"),
        ({"then": 3}, "^then is 3: expected a function or None$"),
        ({"strict": None}, "^strict is None: expected True or False$"),
    ],
)
def test_an_argument_of_another_kind_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked(**given)


def test_what_fits_goes_through_and_numbers_of_numpy_become_pythons() -> None:
    column, frame = pd.Series(["a"]), pl.DataFrame()
    found = asked(np.int64(3), np.float32(0.5), "down", column, {"a": 1}, table=frame, strict=np.bool_(True))
    assert found[:3] == [3, 0.5, "down"]
    assert [type(each) for each in found] == [int, float, str, pd.Series, dict, type(None), pl.DataFrame, bool]
    assert asked(1, 2)[:2] == [1, 2]
    with pytest.raises(TypeError, match="unexpected keyword argument 'length'"):
        asked(length=3)  # type: ignore[call-arg]


def test_every_public_function_has_the_door() -> None:
    functions = [each for each in map(vars(xc).get, xc.__all__) if inspect.isfunction(each)]
    methods = [getattr(xc.Recommender, name) for name in DOORS]
    assert not [each.__qualname__ for each in (*functions, *methods) if not hasattr(each, "__wrapped__")]


def test_numbers_out_of_their_range_are_refused(tiny_domain: Domain) -> None:
    for ask, said in (
        (lambda: xc.target_config(users=-1), "users is -1: give 0 or more"),
        (lambda: xc.target_config(scoring="both"), "scoring is 'both': choose dual or pair"),  # type: ignore[arg-type]
        (lambda: xc.Integration("xcross", top_layers=0), "top_layers is 0: expected a whole number above 0, or None"),
        (lambda: xc.Integration("xcross", top_layers=1.5), "top_layers is 1.5"),  # type: ignore[arg-type]
        (lambda: tiny_domain.with_users("train", 1, -1), "most is 1 and seed -1: give 0 or more"),
        (lambda: xc.train_source(tiny_domain, "m", rank=0), "rank is 0: expected a whole number from 1 to 1,024"),
    ):
        with pytest.raises(ConfigError, match=said):
            ask()
    with pytest.raises(DataError, match="no other domain was given"):
        xc.with_shared_users(tiny_domain, [])


def test_a_category_that_is_no_list_is_named() -> None:
    with pytest.raises(DataError, match=r"^the filter category is 3: give a list of texts$"):
        Filters(category=3)
