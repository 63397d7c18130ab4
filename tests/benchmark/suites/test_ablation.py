"""Which cells are ranked once more without their integration, and what is then left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xcrossrec.baselines.neural import ModelScorer, untrained
from xcrossrec.benchmark.ablation import integration_switched_off
from xcrossrec.benchmark.cell_process import make_task
from xcrossrec.benchmark.ranked import ranked_users
from xcrossrec.benchmark.suite import Suite
from xcrossrec.benchmark.task import Fitted
from xcrossrec.data import read_domain
from xcrossrec.evaluation import evaluate
from xcrossrec.models import bundle
from xcrossrec.models.centering import center_on
from xcrossrec.training.target import build_target_model


@pytest.mark.parametrize(
    ("written", "ranked"),
    [("true", True), ("[16]", True), ("[8, 16, 32]", True), ("false", False), ("[8, 32]", False), ("[]", False)],
)
def test_a_list_of_budgets_chooses_the_cells(
    written: str, ranked: bool, suite_file: Callable[..., Path], tiny_models: Any, tmp_path: Path
) -> None:
    path = suite_file(("xcross",), "16")
    path.write_text(path.read_text().replace("ablate = true", f"ablate = {written}"))
    suite = replace(Suite.read(path), negatives=("full",))
    directory = suite.data / "garden"
    domain = read_domain(directory)
    (cell,) = suite.cells()
    task = make_task(suite, cell, domain, tmp_path)
    scorer = ModelScorer(bundle.load(tiny_models.late), domain.titles, name="model")
    mixed = evaluate(scorer, domain, suite.split, negatives=suite.negatives, directory=directory)
    fitted = Fitted(scorer, model=scorer.model)
    found = integration_switched_off(fitted, suite, task, ranked_users(suite, domain), mixed)
    if not ranked:
        assert found is None
        return
    with_mixing = mixed.summary()
    assert found is not None
    added, means = found["mixing_adds"]["full"]["mrr"], (with_mixing["metrics"], found["metrics"])
    assert added["difference"] == pytest.approx(means[0]["full"]["mrr"] - means[1]["full"]["mrr"])
    assert added["ci"][0] < added["difference"] < added["ci"][1]
    assert found["users"] == with_mixing["users"] == 30
    assert found["metrics"] != with_mixing["metrics"]


def test_merged_sources_leave_the_centered_base_behind(
    suite_file: Callable[..., Path], tiny_models: Any, tmp_path: Path
) -> None:
    suite = replace(Suite.read(suite_file(("xcross",), "16")), negatives=("full",))
    directory = suite.data / "garden"
    domain = read_domain(directory)
    (cell,) = suite.cells()
    task = make_task(suite, cell, domain, tmp_path)
    model = center_on(build_target_model(tiny_models.sources, integrator="merged"), domain.titles)
    model.eval()
    fitted = Fitted(ModelScorer(model, domain.titles, name="merged"), model=model)

    def ranked(scorer: ModelScorer) -> Any:
        return evaluate(scorer, domain, suite.split, negatives=suite.negatives, directory=directory).summary()[
            "metrics"
        ]

    merged = evaluate(fitted.scorer, domain, suite.split, negatives=suite.negatives, directory=directory)
    found = integration_switched_off(fitted, suite, task, ranked_users(suite, domain), merged)
    assert found is not None
    assert found["metrics"] == ranked(untrained(str(tiny_models.base), domain.titles, center=True))
    assert found["metrics"] != merged.summary()["metrics"]
    assert ranked(ModelScorer(model, domain.titles, name="again")) == merged.summary()["metrics"], "all is put back"


def test_merged_sources_of_a_pair_model_are_taken_out_too(
    suite_file: Callable[..., Path], tiny_models: Any, tmp_path: Path
) -> None:
    suite = replace(Suite.read(suite_file(("xcross",), "16")), negatives=("uniform",))
    directory = suite.data / "garden"
    domain = read_domain(directory)
    (cell,) = suite.cells()
    model = build_target_model(tiny_models.sources, scoring="pair", integrator="merged")
    model.eval()
    fitted = Fitted(ModelScorer(model, domain.titles, name="merged"), model=model)
    task = make_task(suite, cell, domain, tmp_path)
    ranked = ranked_users(suite, domain)
    merged = evaluate(fitted.scorer, domain, suite.split, negatives=suite.negatives, directory=directory)
    found = integration_switched_off(fitted, suite, task, ranked, merged)
    assert found is not None
    assert found["metrics"] != merged.summary()["metrics"]
    again = evaluate(fitted.scorer, domain, suite.split, negatives=suite.negatives, directory=directory)
    assert again.summary()["metrics"] == merged.summary()["metrics"], "all is put back"
