"""The same model with its integration switched off at inference: what mixing the streams adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xcrossrec.baselines.neural import ModelScorer
from xcrossrec.benchmark.suite import Suite
from xcrossrec.benchmark.task import Fitted, Task
from xcrossrec.data.domain import Domain
from xcrossrec.evaluation import evaluate
from xcrossrec.models.bundle import encoder_of
from xcrossrec.models.encoder import IntegratedEncoder


def integration_switched_off(
    fitted: Fitted, suite: Suite, task: Task, domain: Domain, directory: Path
) -> dict[str, Any] | None:
    """Rank once more without any mixing between the streams.

    Args:
        fitted: the cell's method.
        suite: the protocol.
        task: the cell's task.
        domain: the whole target.
        directory: its folder, with the candidates.

    Returns:
        the summary of metrics; None for a method that does not integrate, or whose suite does not ask for it.
    """
    if fitted.model is None or not task.setting("ablate", False):
        return None
    encoder = encoder_of(fitted.model)
    if not isinstance(encoder, IntegratedEncoder):
        return None
    with encoder.integration_off():
        scorer = ModelScorer(fitted.model, domain.titles, name="integration off")
        found = evaluate(
            scorer,
            domain,
            suite.split,  # type: ignore[arg-type]
            negatives=suite.negatives,
            seed=suite.candidate_seed,
            directory=directory,
        )
    return found.summary()
