"""Training settings: defaults, bounds, unknown keys."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest

from xcrossrec.config import Integration, TrainingConfig, rival_config, source_config, target_config
from xcrossrec.exceptions import ConfigError


def test_each_stage_has_its_defaults_and_takes_changes() -> None:
    assert source_config(epochs=7).epochs == 7
    assert target_config(seed=5).seed == 5
    assert (source_config().projection_rank, target_config().projection_rank) == (0, 16)


def test_an_integration_is_checked() -> None:
    assert (Integration().form, Integration().rank, Integration("xcross").top_layers) == ("merged", 2, 2)
    with pytest.raises(
        ConfigError, match=r"unknown form 'paper': choose one of merged, xcross \(xcross is the paper's\)"
    ):
        Integration("paper")  # type: ignore[arg-type]
    for rank in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match=f"rank is {rank!r}: expected a whole number from 1 to 1,024"):
            Integration(rank=rank)  # type: ignore[arg-type]


def test_rates_rise_with_the_number_of_users() -> None:
    rates = [target_config(users=users).target_learning_rate for users in (511, 512, 8191, 8192, 20_000)]
    assert rates == [2e-3, 4e-3, 4e-3, 8e-3, 8e-3]
    assert target_config(users=8192, scoring="pair").target_learning_rate == 2e-3
    assert [rival_config(users=users).learning_rate for users in (0, 2047, 2048)] == [1e-3, 1e-3, 3e-3]
    assert rival_config(users=2048, learning_rate=1e-2).learning_rate == 1e-2


def test_integrators_after_all_layers_have_a_lower_rate() -> None:
    forms = (None, Integration("xcross"), Integration("xcross", top_layers=1), Integration("xcross", top_layers=None))
    assert [target_config(integration=form).learning_rate for form in forms] == [3e-4, 3e-4, 3e-4, 1e-4]


def test_settings_survive_a_mapping() -> None:
    config = source_config(epochs=2, seed=9)
    assert TrainingConfig.from_mapping(asdict(config)) == config
    assert set(asdict(config)) == {field.name for field in fields(TrainingConfig)}


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"setting 'lr': known are accumulate, batch_users, .*learning_rate"):
        source_config(lr=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "epochs",
        "batch_users",
        "learning_rate",
        "head_learning_rate",
        "projection_learning_rate",
        "patience",
        "pair_negatives",
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_what_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is {value!r}: give a finite value above 0"):
        source_config(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rates_are_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=f"target_learning_rate is {value!r}: give a finite value above 0"):
        target_config(target_learning_rate=value)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epochs", 1.5, "int"),
        ("batch_users", "32", "int"),
        ("seed", None, "int"),
        ("patience", True, "int"),
        ("learning_rate", "fast", "float"),
        ("center", 1, "bool"),
        ("precision", False, "str"),
    ],
)
def test_a_setting_of_another_type_is_refused(name: str, value: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value!r}: expected {kind}"):
        rival_config(**{name: value})


@pytest.mark.parametrize("name", ["sampled_negatives", "projection_rank", "seed"])
def test_what_must_not_be_negative(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is -1: give 0 or more"):
        target_config(**{name: -1})
    assert getattr(target_config(**{name: 0}), name) == 0


@pytest.mark.parametrize("value", [-0.1, 0.9, 1.5])
def test_the_share_set_aside_has_bounds(value: float) -> None:
    with pytest.raises(ConfigError, match=f"holdout_share is {value}: give at least 0 and less than 0.9"):
        source_config(holdout_share=value)


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"precision is 'fp8': choose one of auto, fp32, bf16"):
        source_config(precision="fp8")
