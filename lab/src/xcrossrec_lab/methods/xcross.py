"""X-Cross in its forms."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from xcrossrec.config import target_config
from xcrossrec.models import bundle
from xcrossrec.training.target import count_parameters, train_target
from xcrossrec_lab.methods.lora import fitted_model
from xcrossrec_lab.task import Fitted, Task, check_settings

FROZEN_RATE = 1e-12
"""A rate that leaves the integrators where they start: at zero."""


def xcross(task: Task) -> Fitted:
    """Integrate the sources into the target.

    Settings: ``integrator`` (``paper``), the strengths ``beta`` and ``gamma``, ``base_stream``, which adds the base as
    it is as one more stream, so that integration can fall back on it, ``top_layers``, the number of last layers after
    which the streams are integrated (all), ``target_rank``, the rank of a LoRA of the target's own (0, none), and
    ``target_layers``, the number of last layers that have it (all).
    """
    check_settings(task, {"integrator", "beta", "gamma", "base_stream", "top_layers", "target_rank", "target_layers"})
    return _integrated(task, task.setting("learning_rate", None))


def head_on_the_sources(task: Task) -> Fitted:
    """The same with integrators that cannot learn: the head on the mean of the sources' states."""
    check_settings(task, {"integrator", "top_layers"})
    return _integrated(task, FROZEN_RATE)


def _integrated(task: Task, rate: float | None) -> Fitted:
    integrator = task.setting("integrator", "paper")
    out = Path(tempfile.mkdtemp(dir=task.work)) / "xcross"
    report = train_target(
        task.target,
        [source.adapter for source in task.sources],
        out,
        config=replace(task.training, learning_rate=rate or target_config(integrator).learning_rate),
        integrator=integrator,
        beta=task.setting("beta", 1.0),
        gamma=task.setting("gamma", 1.0),
        base=task.base,
        scoring=task.scoring,
        pooling=task.pooling,
        pair_attention=task.pair_attention,
        base_stream=task.setting("base_stream", False),
        top_layers=task.setting("top_layers", None),
        target_rank=task.setting("target_rank", 0),
        target_layers=task.setting("target_layers", None),
        show_progress=False,
    )
    model = bundle.load(out)
    fitted = fitted_model(model, task, asdict(report))
    return replace(fitted, uses_sources=True, report={**fitted.report, "parameters": count_parameters(model)})
