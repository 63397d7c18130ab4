"""A base trained on the target's texts alone: what it moves, that it is the same again, what noise leaves."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from xcrossrec import ConfigError
from xcrossrec_lab.methods.catalogue_only import DELETED, denoised, left_of
from xcrossrec_lab.methods.sources import untrained_base
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]


def test_training_changes_what_the_base_says_and_is_the_same_again(make_task: MakeTask) -> None:
    settings = {"epochs": 10, "learning_rate": 1e-3}
    fitted = denoised(make_task(settings=settings))
    scores = fitted.scorer.score(HISTORIES)
    assert np.abs(scores - untrained_base(make_task()).scorer.score(HISTORIES)).max() > 0.01
    np.testing.assert_array_equal(scores, denoised(make_task(settings=settings)).scorer.score(HISTORIES))
    losses = fitted.report["losses"]
    assert losses[-1] < losses[0]  # type: ignore[index]
    assert not fitted.uses_sources
    assert fitted.trained_parameters == 0  # by the target's users


def test_noise_deletes_its_share_of_words_and_never_all() -> None:
    noise = random.Random(0)
    text = " ".join(f"w{n}" for n in range(1000))
    assert len(left_of(text, noise).split()) == pytest.approx(1000 * (1 - DELETED), abs=60)
    assert {left_of("one two", noise) for _ in range(50)} == {"one", "two", "one two"}
    assert left_of("", noise) == ""


def test_an_unknown_setting_is_refused(make_task: MakeTask) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'passes'"):
        denoised(make_task(settings={"passes": 2}))
