"""Each shape of base, from two sources to a target that is served from another folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from torch import nn
from transformers import AutoModel

from model_families import FAMILIES, SHARED_LAYERS, write_base
from xcrossrec.catalogue import fingerprint_of
from xcrossrec.config import Integration, TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.dual import DualScorer
from xcrossrec.models.encoder import recipe_of, settings_in
from xcrossrec.models.purchases import term_of
from xcrossrec.models.recipe import Recipe
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.recommender import Recommender
from xcrossrec.training.source import train_source
from xcrossrec.training.target import build_target_model, train_target

SHAPES = {**FAMILIES, SHARED_LAYERS.name: SHARED_LAYERS}
NEW = ("distilbert", "llama", "qwen3", "gemma", "albert")
BY_XCROSS = ("bert", "deberta-v3", "distilbert", "qwen3", "gemma")
CHOICES: dict[str, dict[str, Any]] = {
    "bert": {"pooling": "cls"},
    "llama": {"pooling": "lasttoken"},
    "qwen3": {"pooling": "lasttoken", "history_prompt": "w38 "},
    "gemma": {"history_prompt": "w38 w39 ", "item_prompt": "w37 "},
}


@pytest.fixture(scope="module")
def quick() -> Any:
    return TrainingConfig(epochs=1, batch_users=16, sampled_negatives=2, holdout_share=0.0, precision="fp32")


@pytest.mark.parametrize("name", ["bert", "mpnet", "deberta-v3", "modernbert", *NEW])
def test_two_sources_and_a_target_are_trained_moved_and_served(
    name: str, quick: TrainingConfig, domain_named: Callable[..., Domain], tmp_path: Path
) -> None:
    base, how = str(write_base(tmp_path / "base", SHAPES[name])), CHOICES.get(name, {})
    home, away = tmp_path / "home", tmp_path / "away"
    for source in ("first", "second"):
        domain = domain_named(source, 16)
        train_source(domain, home / source, config=quick, base=base, rank=2, show_progress=False, **how)
    home.rename(away)
    sources, target = [away / "first", away / "second"], domain_named("target", 16, seed=7)
    integration = Integration("xcross" if name in BY_XCROSS else "merged")
    train_target(target, sources, away / "made", config=quick, integration=integration, show_progress=False)
    kept = shutil.move(away / "made", tmp_path / "served")
    recommender = Recommender.from_pretrained(kept, target)
    history = ["i3", "w9 w8 w7"]
    found = recommender.recommend(history, k=3)
    model: Any = bundle.load(kept)
    assert model[0].recipe == Recipe(**how)
    scorer = DualScorer(model, [*target.titles, "w9 w8 w7"])
    rows = [target.titles.index(each.title) for each in found]
    term = term_of(model)
    assert term is not None
    together = term.bonus(["i3", ""])  # of the catalogue's item alone; the free title takes its place
    expected = [scorer.score([[3, 24]])[0][row] + together.get(f"i{row}", 0.0) for row in rows]
    np.testing.assert_allclose(expected, [each.score for each in found], atol=1e-5)
    reasons = recommender.explain(history, found[0].item_id)
    assert reasons.score == pytest.approx(found[0].score, abs=1e-5)
    assert len(reasons.sources) == 2


def test_layers_that_run_several_times_have_no_place_for_integrators(
    quick: TrainingConfig, domain_named: Callable[..., Domain], tmp_path: Path
) -> None:
    base = str(write_base(tmp_path / "base", SHARED_LAYERS))
    for source in ("first", "second"):
        config = quick
        train_source(domain_named(source, 16), tmp_path / source, config=config, base=base, show_progress=False)
    with pytest.raises(ModelError, match=r"AlbertModel has no list of layers .* so integrators .* use --form merged"):
        build_target_model([tmp_path / "first", tmp_path / "second"], Integration("xcross"))


def test_a_target_reads_as_its_sources_which_must_agree(
    quick: TrainingConfig, domain_named: Callable[..., Domain], tiny_base: str, two_sources: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    train_source(domain_named("o", 16), other, config=quick, base=tiny_base, item_prompt="w1 ", show_progress=False)
    assert recipe_of(settings_in(other)) == Recipe(item_prompt="w1 ")
    message = "was trained with pooling mean, .*other with pooling mean, item prompt 'w1 ': train them alike"
    with pytest.raises(ModelError, match=message):
        build_target_model([two_sources[0], other], Integration())
    model: Any = build_target_model([other, other], Integration())
    assert model[0].recipe == Recipe(item_prompt="w1 ")


def test_other_layers_can_be_adapted(
    quick: TrainingConfig, domain_named: Callable[..., Domain], tiny_base: str, tmp_path: Path
) -> None:
    out, settings = tmp_path / "out", {"config": quick, "base": tiny_base, "show_progress": False}
    train_source(domain_named("a", 16), out, target_modules=["key", "output.dense"], **settings)
    encoder: Any = bundle.load(out)[0]
    assert sorted(encoder.backbone.peft_config["default"].target_modules) == ["key", "output.dense"]
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_base), str(out))
    assert {n.rpartition(".lora")[0] for n in encoder.lora_state()} == {
        n.replace(".default", "").rpartition(".lora")[0] for n, _ in plain.named_parameters() if "lora_" in n
    }
    for again, refused in (({"pooling": "cls"}, "pooling"), ({"target_modules": ["key"]}, "target_modules")):
        with pytest.raises(ConfigError, match=f"{refused} belongs to a fresh adapter, .* or leave out init"):
            train_source(domain_named("b", 16), tmp_path / "b", init=out, **again, **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pooling belongs to dual scoring"):
        train_source(domain_named("b", 16), tmp_path / "b", scoring="pair", pooling="cls", **settings)
    with pytest.raises(ModelError, match=r"has the linear layers dense, key, query, value, not 'q_proj': .*--target"):
        train_source(domain_named("b", 16), tmp_path / "b", target_modules=["q_proj"], **settings)


def test_what_has_no_query_and_value_says_which_layers_there_are(tiny_base: str) -> None:
    base = load_base(tiny_base)
    base.backbone.config.model_type = "unheard-of"
    SourceEncoder(base, default_lora())  # it calls them query and value
    base = load_base(tiny_base)
    base.backbone.config.model_type = "unheard-of"
    for layer in base.backbone.encoder.layer:
        layer.attention.self.ask = layer.attention.self.query
        layer.attention.self.query = nn.Identity()
    with pytest.raises(ModelError, match="ask, dense, key, value, of which none is known to be query or value: choose"):
        SourceEncoder(base, default_lora())
    base.backbone.encoder.layer = nn.ModuleList()
    with pytest.raises(ModelError, match="this unheard-of base has no linear layers, which LoRA adapts: use another"):
        SourceEncoder(base, default_lora())


def test_a_pair_model_over_a_decoder_reads_the_candidate(
    quick: TrainingConfig, domain_named: Callable[..., Domain], tmp_path: Path
) -> None:
    base, out = str(write_base(tmp_path / "base", FAMILIES["qwen3"])), tmp_path / "pair"
    domain = domain_named("pair", 16)
    train_source(domain, out, config=quick, base=base, scoring="pair", item_prompt="w38 ", show_progress=False)
    model: Any = bundle.load(out)
    assert (model[-1].reads, fingerprint_of(model)) == ("candidate", "pair")
    found = Recommender.from_pretrained(out, domain).recommend(["i1", "i2"], k=2)
    pairs = [("w1 w26 w32\nw2 w27 w33", each.title) for each in found]
    np.testing.assert_allclose(model.predict(pairs), [each.score for each in found], atol=1e-5)
    with pytest.raises(ModelError, match=r"qwen3 bases take no mask .*use --pair-attention joint"):
        SourceEncoder(load_base(base), pair_attention="shared")
