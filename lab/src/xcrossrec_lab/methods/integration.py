"""The product's own forms of integration: merged sources, and X-Cross."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from xcrossrec import Integration, load, target_config, train_target
from xcrossrec.training.target import count_parameters
from xcrossrec_lab.methods.lora import fitted_model
from xcrossrec_lab.task import Fitted, Task, check_settings


def xcross(task: Task) -> Fitted:
    """Integrate the sources' streams; ``top_layers`` is the number of last layers after which they are mixed (all)."""
    check_settings(task, {"top_layers"})
    return _integrated(task, Integration("xcross", top_layers=task.setting("top_layers", None)))


def merged(task: Task) -> Fitted:
    """Merge the sources into one stream; ``target_rank`` is the rank of the target's own LoRA (the product's)."""
    check_settings(task, {"target_rank"})
    return _integrated(task, Integration("merged", rank=task.setting("target_rank", Integration.rank)))


def _integrated(task: Task, integration: Integration) -> Fitted:
    rate = task.setting("learning_rate", target_config().learning_rate)
    out = Path(tempfile.mkdtemp(dir=task.work)) / integration.form
    report = train_target(
        task.target,
        [source.adapter for source in task.sources],
        out,
        config=replace(task.training, learning_rate=rate),
        integration=integration,
        base=task.base,
        scoring=task.scoring,
        pair_attention=task.pair_attention,
        purchases=False,
        show_progress=False,
    )
    model = load(out)
    fitted = fitted_model(model, task, asdict(report))
    return replace(fitted, uses_sources=True, report={**fitted.report, "parameters": count_parameters(model)})
