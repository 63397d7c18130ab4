"""Settings of a method that depend on the budget."""

from __future__ import annotations

import pytest

from xcrossrec import ConfigError
from xcrossrec_lab.suites.cell_process import settings_at
from xcrossrec_lab.suites.cells import ALL

RATES = {"128": 3e-3, "2048": 1e-3}


@pytest.mark.parametrize(("budget", "rate"), [(128, 3e-3), (512, 3e-3), (2048, 1e-3), (8192, 1e-3), (ALL, 1e-3)])
def test_a_table_gives_the_value_of_the_largest_budget_not_above(budget: int, rate: float) -> None:
    assert settings_at({"learning_rate": RATES, "rank": 4}, budget) == {"learning_rate": rate, "rank": 4}


def test_a_budget_below_all_of_them_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate has no value for 64 users, only from 128 on"):
        settings_at({"learning_rate": RATES}, 64)


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"learning_rate is \{'many': 0.001\}: give a value, or a table"):
        settings_at({"learning_rate": {"many": 1e-3}}, 128)
