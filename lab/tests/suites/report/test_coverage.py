"""How often intervals hold the truth, on made-up reciprocal ranks."""

from __future__ import annotations

import numpy as np

from xcrossrec_lab.report.coverage import held


def test_few_customers_are_too_sure_by_a_percentile_bootstrap_alone() -> None:
    rng = np.random.default_rng(0)
    ranks = {name: 1 / np.exp(rng.uniform(0, 9, 2000)).round().clip(1) for name in ("one", "other")}
    rare = {name: np.where(rng.random(2000) < 0.1, values, 0.0003) for name, values in ranks.items()}
    found = held([rare], 64, 40, rng)
    assert found["difference"] >= 0.9 > found["difference, bootstrap"]
    assert found["score"] >= 0.9 > found["score, bootstrap"]
    assert held([{"one": np.full(9, 0.5), "other": np.full(9, 0.5)}], 4, 1, rng)["difference"] == 1.0
