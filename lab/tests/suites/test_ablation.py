"""Which cells are ranked once more without their integration, and what is then left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xcrossrec import Evaluation, Integration, evaluate, read_domain
from xcrossrec.models import bundle
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.scorer import ModelScorer, untrained
from xcrossrec.training.target import build_target_model
from xcrossrec.types import Scoring
from xcrossrec_lab.suites.ablation import integration_switched_off
from xcrossrec_lab.suites.cell_process import make_task
from xcrossrec_lab.suites.ranked import ranked_users
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.task import Fitted


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


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_merged_sources_are_taken_out_and_put_back(
    scoring: Scoring, suite_file: Callable[..., Path], tiny_models: Any, tmp_path: Path
) -> None:
    suite = replace(Suite.read(suite_file(("xcross",), "16")), negatives=("uniform",))
    directory = suite.data / "garden"
    domain = read_domain(directory)
    (cell,) = suite.cells()
    task = make_task(suite, cell, domain, tmp_path)
    model = build_target_model(tiny_models.sources, Integration(), scoring=scoring)
    model = kind_of(model).centered(model, domain.titles)
    model.eval()

    def evaluated(scorer: ModelScorer) -> Evaluation:
        return evaluate(scorer, domain, suite.split, negatives=suite.negatives, directory=directory)

    merged = evaluated(ModelScorer(model, domain.titles, name="merged"))
    fitted = Fitted(ModelScorer(model, domain.titles, name="merged"), model=model)
    found = integration_switched_off(fitted, suite, task, ranked_users(suite, domain), merged)
    assert found is not None
    assert found["metrics"] != merged.summary()["metrics"]
    if scoring == "dual":
        centered_base = evaluated(untrained(str(tiny_models.base), domain.titles, center=True))
        assert found["metrics"] == centered_base.summary()["metrics"], "nothing else is left"
    again = evaluated(ModelScorer(model, domain.titles, name="again"))
    assert again.summary()["metrics"] == merged.summary()["metrics"]
