"""Methods in a `pair` suite encode as the sources were trained, and start from their heads where they have sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xcrossrec import TrainingConfig, read_domain, train_source
from xcrossrec.models.model import encoder_of
from xcrossrec.training.target import inherit_head
from xcrossrec_lab.methods.arrow import arrow
from xcrossrec_lab.methods.finetuning import full_fine_tuning
from xcrossrec_lab.methods.fusion import adapter_fusion
from xcrossrec_lab.methods.lora import head_on_the_base, lora, lora_from_best_source
from xcrossrec_lab.methods.merging import merged_linear
from xcrossrec_lab.methods.xlora import xlora
from xcrossrec_lab.task import Method, Source, Task

from .conftest import TRAINING

MakeTask = Callable[..., Task]
CHANCE = log(3)  # one item bought among two others


@pytest.fixture(scope="module")
def pair_sources(source_data: Path, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, ...]:
    """Two that share histories in their pairs and began with fresh heads of one seed."""
    folder = tmp_path_factory.mktemp("pair-sources")
    config = TrainingConfig(**{**TRAINING, "head_learning_rate": 1e-1})
    for domain in sorted(source_data.iterdir()):
        train_source(
            read_domain(domain),
            folder / domain.name,
            config=config,
            base=str(tiny_models.base),
            rank=2,
            scoring="pair",
            pair_attention="shared",
            pair_start="fresh",
            show_progress=False,
        )
    return tuple(Source(domain.name, folder / domain.name, domain) for domain in sorted(source_data.iterdir()))


@pytest.fixture
def pair_task(make_task: MakeTask, pair_sources: tuple[Source, ...]) -> Task:
    task = make_task(scoring="pair", pair_attention="shared", pair_start="fresh", training={"epochs": 1})
    return replace(task, sources=pair_sources)


@pytest.mark.parametrize(
    "method",
    [adapter_fusion, xlora, arrow, merged_linear, lora, lora_from_best_source, head_on_the_base, full_fine_tuning],
)
def test_the_suites_attention_is_every_methods(pair_task: Task, method: Method) -> None:
    scorer: Any = method(pair_task).scorer
    assert encoder_of(scorer.model).pair_attention == "shared"


@pytest.mark.parametrize("method", [adapter_fusion, xlora])
def test_what_weighs_sources_starts_from_their_heads(pair_task: Task, method: Method) -> None:
    report = method(pair_task).report
    assert report["initial_loss"] != pytest.approx(CHANCE, abs=1e-4)


def test_arrow_has_the_sources_mean_head(pair_task: Task) -> None:
    scorer: Any = arrow(pair_task).scorer
    found = scorer.model[-1].state_dict()
    assert found["value.weight"].abs().sum() > 0
    inherit_head(scorer.model, [source.adapter for source in pair_task.sources])
    for name, value in scorer.model[-1].state_dict().items():
        torch.testing.assert_close(found[name], value)


def test_a_fresh_model_starts_at_chance(pair_task: Task) -> None:
    assert lora(pair_task).report["initial_loss"] == pytest.approx(CHANCE, abs=1e-6)


@pytest.mark.parametrize("method", [adapter_fusion, xlora, arrow, lora, full_fine_tuning])
def test_what_shares_histories_runs_in_bfloat16(pair_task: Task, method: Method) -> None:
    training = replace(pair_task.training, precision="bf16")
    scorer: Any = method(replace(pair_task, training=training, encoding="bf16")).scorer
    assert np.isfinite(scorer.score([[0, 1], [2]], np.array([[3, 4], [5, 6]]))).all()
