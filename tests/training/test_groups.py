"""What trains at which rate: the modules name exactly what trains, and every slip is refused by a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from xcrossrec.config import TrainingConfig
from xcrossrec.exceptions import ModelError
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.model import Model
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.loop import parameter_groups

RATES: dict[str, float] = {
    "learning_rate": 0.1,
    "head_learning_rate": 0.2,
    "projection_learning_rate": 0.3,
    "target_learning_rate": 0.4,
}
CONFIG = TrainingConfig(**RATES)  # type: ignore[arg-type]
KINDS_OF_MODELS = ["source", "merged", "xcross", "pair similarity", "pair fresh"]


def make(name: str, tiny_models: Any) -> Model:
    """A model as training gets it."""
    if name in ("source", "pair fresh"):
        encoder = SourceEncoder(load_base(str(tiny_models.base)), default_lora(2))
        if name == "source":
            return build_model(encoder)
        return build_model(encoder, scoring="pair", pair_start="fresh")
    folder = {"merged": tiny_models.merged, "xcross": tiny_models.late, "pair similarity": tiny_models.pair}[name]
    return bundle.load(folder, trainable=True)


def by_rate(model: Model) -> dict[float, set[str]]:
    """The names of the parameters at each rate."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[float, set[str]] = {}
    for group in parameter_groups(model, CONFIG):
        assert group["weight_decay"] == 0.0
        found.setdefault(group["lr"], set()).update(names[id(p)] for p in group["params"])
    return found


# ---- what is named is what trains


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", KINDS_OF_MODELS)
def test_groups_cover_exactly_what_trains(name: str, projected: bool, tiny_models: Any) -> None:
    model = make(name, tiny_models)
    if projected:
        model = kind_of(model).with_projection(model, 2, seed=0)
    named = [id(p) for group in parameter_groups(model, CONFIG) for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert len(trained) > 3
    assert sorted(named) == sorted(trained)


@pytest.mark.parametrize(
    ("name", "rate", "part"),
    [
        ("source", 0.1, "lora_"),
        ("merged", 0.4, "lora_"),
        ("xcross", 0.1, "concat_weight"),
        ("pair fresh", 0.1, "lora_"),
    ],
)
def test_each_encoder_trains_at_its_own_rate(name: str, rate: float, part: str, tiny_models: Any) -> None:
    model = make(name, tiny_models)
    assert by_rate(model)[rate] == {parameter for parameter, _ in model.named_parameters() if part in parameter}


def test_scale_stream_weights_matcher_and_pair_head_are_head(tiny_models: Any) -> None:
    matcher = {"log_scale", "log_sharpness", "log_recency"}

    def heads(name: str) -> set[str]:
        return {parameter.split(".", 1)[1] for parameter in by_rate(make(name, tiny_models))[0.2]}

    assert heads("source") == matcher
    assert heads("merged") == {"scale", *matcher}
    assert heads("xcross") == {"stream_weight", *matcher}
    learned = {f"{layer}.{part}" for layer in ("project", "value") for part in ("weight", "bias")}
    assert heads("pair fresh") == learned
    assert heads("pair similarity") == {"stream_weight", *learned, *(f"matcher.{part}" for part in matcher)}


def test_the_projection_has_a_rate_of_its_own(tiny_models: Any) -> None:
    model = kind_of(plain := make("merged", tiny_models)).with_projection(plain, 2, seed=0)
    assert {name.split(".")[1] for name in by_rate(model)[0.3]} == {"down", "up"}


def test_a_model_of_which_only_the_head_trains(tiny_models: Any) -> None:
    model = build_model(SourceEncoder(load_base(str(tiny_models.base))))
    assert set(by_rate(model)) == {0.2}


# ---- slips


class Careless(HistoryMatcher):
    """A head whose groups are what a test says."""

    def __init__(self, **groups: list[nn.Parameter]) -> None:
        super().__init__()
        self.named = groups

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"head_learning_rate": list(self.parameters()), **self.named}


def with_head(head: nn.Module, tiny_models: Any) -> Model:
    model = make("source", tiny_models)
    return SentenceTransformer(modules=[*list(model)[:-1], head])


def test_a_rate_that_the_settings_do_not_have(tiny_models: Any) -> None:
    model = with_head(Careless(velocity=[nn.Parameter(torch.zeros(1))]), tiny_models)
    with pytest.raises(
        ModelError, match="the group 'velocity' of Careless is no learning rate of the settings: name one of"
    ):
        parameter_groups(model, CONFIG)


def test_an_empty_group(tiny_models: Any) -> None:
    model = with_head(Careless(learning_rate=[]), tiny_models)
    with pytest.raises(ModelError, match="the group 'learning_rate' of Careless has no parameter: leave it out"):
        parameter_groups(model, CONFIG)


def test_a_frozen_parameter(tiny_models: Any) -> None:
    head = Careless()
    head.log_recency.requires_grad_(False)
    with pytest.raises(
        ModelError, match=r"'head_learning_rate' of Careless names a frozen parameter of shape \(8,\): name each"
    ):
        parameter_groups(with_head(head, tiny_models), CONFIG)


def test_a_parameter_of_no_module_of_the_model(tiny_models: Any) -> None:
    model = with_head(Careless(learning_rate=[nn.Parameter(torch.zeros(5))]), tiny_models)
    with pytest.raises(ModelError, match=r"'learning_rate' of Careless names .* parameter of shape \(5,\)"):
        parameter_groups(model, CONFIG)


def test_a_parameter_named_twice(tiny_models: Any) -> None:
    head = Careless()
    head.named = {"learning_rate": [head.log_scale]}
    with pytest.raises(
        ModelError,
        match=r"'learning_rate' of Careless names .*log_scale a second time: name each trained parameter once",
    ):
        parameter_groups(with_head(head, tiny_models), CONFIG)


def test_a_trained_parameter_that_no_module_names(tiny_models: Any) -> None:
    model = make("source", tiny_models)
    model[0].backbone.base_model.model.embeddings.LayerNorm.weight.requires_grad_(True)
    model[0].parameter_groups = lambda: {"learning_rate": [p for n, p in model[0].named_parameters() if "lora_" in n]}
    with pytest.raises(ModelError, match=r"LayerNorm\.weight trains, but no module gives it a learning rate: name it"):
        parameter_groups(model, CONFIG)


def test_a_module_without_the_method_may_not_train(tiny_models: Any) -> None:
    model = with_head(nn.Linear(2, 2), tiny_models)
    with pytest.raises(ModelError, match=r"3\.weight trains, but no module gives it a learning rate"):
        parameter_groups(model, CONFIG)
