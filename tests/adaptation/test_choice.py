"""The rule of choice and the data curve, on made-up scores."""

from __future__ import annotations

import numpy as np
import pytest

from xcrossrec.adaptation.choice import choose, difference, gain, verdict, within_noise
from xcrossrec.adaptation.curve import fit_curve, sizes

LEVEL = {"popularity": 0, "base": 1, "mean": 1, "merged": 2, "lora": 2, "xcross": 3}


def made_up(seed: int, users: int = 200, **better: float) -> dict[str, np.ndarray]:
    """Scores of equally good candidates, but for what some are better by; half of a user's luck is hers in all."""
    rng = np.random.default_rng(seed)
    own = rng.exponential(0.05, users)
    return {name: own + rng.exponential(0.05, users) + better.get(name, 0.0) for name in LEVEL}


def test_a_winner_by_noise_does_not_displace_a_simpler_one() -> None:
    markets = [made_up(seed) for seed in range(60)]
    lucky = [max(scores, key=lambda name: scores[name].mean()) for scores in markets]
    chosen = [choose(scores, LEVEL) for scores in markets]
    assert sum(name != "popularity" for name in lucky) > 40
    assert sum(name != "popularity" for name in chosen) <= 26


def test_one_that_is_better_beyond_noise_is_chosen() -> None:
    assert choose(made_up(1, merged=0.05, lora=0.05, xcross=0.05), LEVEL) in ("merged", "lora")
    assert choose(made_up(1, xcross=0.05), LEVEL) == "xcross"


def test_of_as_simple_ones_the_higher_mean_is_chosen() -> None:
    scores = made_up(2, base=0.05, mean=0.051, merged=0.05)
    assert choose(scores, LEVEL) == max(("base", "mean"), key=lambda name: scores[name].mean())


def test_of_as_simple_ones_within_noise_an_average_goes_before_a_lucky_one() -> None:
    markets = [made_up(seed, base=0.05, mean=0.05, merged=0.05) for seed in range(20)]
    scores = next(each for each in markets if choose(each, LEVEL) == "base" and "mean" in within_noise(each))
    assert choose(scores, LEVEL, ["mean"]) == "mean"
    assert choose(made_up(2, base=0.1, mean=0.05), LEVEL, ["mean"]) == "base"


def test_equal_scores_and_single_users_leave_the_simplest() -> None:
    same = dict.fromkeys(LEVEL, np.full(5, 0.5))
    assert choose(same, LEVEL) == "popularity"
    assert choose({**same, "lora": np.full(5, 0.6)}, LEVEL) == "lora"
    assert choose({"popularity": np.array([0.1]), "base": np.array([0.9])}, LEVEL) == "popularity"


def test_the_best_is_always_within_noise() -> None:
    scores = made_up(3, mean=1.0)
    assert within_noise(scores) == ["mean"]


@pytest.mark.parametrize(
    ("by", "words"), [(0.1, "better than"), (-0.1, "worse than"), (0.0, "not significantly different")]
)
def test_the_verdict_says_by_how_much_and_how_sure(by: float, words: str) -> None:
    rng = np.random.default_rng(0)
    own = rng.exponential(0.1, 300)
    scores = {"ours": own + by, "theirs": rng.permutation(own)}
    found = gain(scores, "ours", "theirs")
    assert found.sure == (by > 0)
    assert found.relative == pytest.approx(found.mean / scores["theirs"].mean())
    first, second = verdict("OURS", {"THEIRS": difference(-own * 0)}, "THEIRS", found, 300, float(own.mean()))
    assert first.startswith("Ship OURS: no other candidate (of 1)")
    assert words in second
    assert "of THEIRS" in second


def test_the_verdict_names_the_best_of_those_that_the_reports_users_prefer_for_sure() -> None:
    rng = np.random.default_rng(0)
    scores = {"ours": rng.exponential(0.05, 300), "simple": rng.exponential(0.05, 300)}
    more = {"A": 0.1, "B": 0.2, "C": 0.0}
    others = {name: difference(np.full(300, by) + rng.normal(0, 0.01, 300)) for name, by in more.items()}
    _, second = verdict("OURS", others, "SIMPLE", gain(scores, "ours", "simple"), 300, 0.05)
    assert second.endswith(
        f" On these customers B did better ({others['B'].mean:+.4f}), which the customers used for the choice do not "
        "confirm: run adapt again when there are more customers."
    )
    _, without = verdict("OURS", {"C": others["C"]}, "SIMPLE", gain(scores, "ours", "simple"), 300, 0.05)
    assert "did better" not in without


def test_a_line_through_the_points_foretells_a_doubling() -> None:
    rng = np.random.default_rng(0)
    users = [64, 128, 256, 512]
    own = rng.exponential(0.1, 2000)
    values = np.stack([own + 0.01 * np.log2(n) + rng.normal(0, 0.05, 2000) for n in users])
    found = fit_curve(users, values, more=512)
    assert found is not None
    assert found.promise.low < 0.01 < found.promise.high
    assert found.promise.mean == pytest.approx(0.01, abs=0.003)
    assert found.sentence.startswith("512 more users would add about +0.0")
    assert [point.users for point in found.points] == users
    assert found.band[-1].users == 1024
    assert all(point.low < point.mean < point.high for point in found.band)


def test_what_more_users_are_worth_may_not_be_told() -> None:
    rng = np.random.default_rng(0)
    found = fit_curve([64, 128, 256], rng.exponential(0.1, (3, 300)), more=256)
    assert found is not None
    assert "256 more users may change the MRR by" in found.sentence
    assert fit_curve([64, 64, 128], rng.exponential(0.1, (3, 30)), more=128) is None


def test_the_numbers_of_users_double_up_to_all() -> None:
    assert sizes(600) == [64, 128, 256, 600]
    assert sizes(256) == [64, 128, 256]
    assert sizes(100) == [16, 32, 64, 100]
    assert sizes(1) == [1]
