"""Methods without any training on the target: the base, a source, the mean of the sources."""

from __future__ import annotations

from xcrossrec import ConfigError
from xcrossrec.baselines.named import MeanScorer
from xcrossrec.models.scorer import ModelScorer, as_read, trained, untrained
from xcrossrec_lab.task import Fitted, Source, Task, check_settings


def untrained_base(task: Task) -> Fitted:
    """The base's own similarity; ``center`` (the training's) says whether vectors are centered."""
    check_settings(task, {"center"})
    return Fitted(
        untrained(
            task.base,
            task.target.texts,
            center=task.setting("center", task.training.center),
            precision=task.encoding,
        )
    )


def source_alone(task: Task) -> Fitted:
    """One source's model as it is; ``number`` says which, from 0.

    Raises:
        ConfigError: there is no such source.
    """
    check_settings(task, {"number"})
    number = task.setting("number", 0)
    if not 0 <= number < len(task.sources):
        raise ConfigError(f"source number {number} of {len(task.sources)} sources: count from 0")
    source = task.sources[number]
    return Fitted(_on_target(source, task), uses_sources=True, report={"source": source.name})


def mean_of_sources(task: Task) -> Fitted:
    """The mean of the sources' scores."""
    check_settings(task, set())
    return Fitted(MeanScorer([_on_target(source, task) for source in task.sources]), uses_sources=True)


def _on_target(source: Source, task: Task) -> ModelScorer:
    texts = as_read(source.adapter, task.target).texts
    return trained(source.adapter, texts, center=task.training.center, precision=task.encoding)
