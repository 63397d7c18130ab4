"""Language models as scorers, and scorers by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from tests.contracts.scorer import ScorerContract, contract_domain

from xcrossrec.baselines.named import MeanScorer, Subject, scorer_for
from xcrossrec.baselines.names import BASELINES
from xcrossrec.baselines.rivals import Popularity
from xcrossrec.data import Domain
from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.model import encoder_of
from xcrossrec.models.scorer import ModelScorer, trained, untrained
from xcrossrec.models.source import SourceEncoder
from xcrossrec.scoring import Scorer

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

HISTORIES = [[0, 1], [3], [2, 0, 5]]


@pytest.fixture(scope="module")
def scorers(tiny_models: Any) -> dict[str, Scorer]:
    """Every kind of model, bound to the contract's catalogue, whose last item has no title."""
    titles = contract_domain().titles
    bundles = {kind: trained(getattr(tiny_models, kind), titles) for kind in ("late", "merged", "pair")}
    sources = [trained(path, titles) for path in tiny_models.sources]
    rest = {"untrained": untrained(str(tiny_models.base), titles), "mean": MeanScorer(sources), "source": sources[0]}
    return {**bundles, **rest}


class _ModelContract(ScorerContract):
    which: str

    @pytest.fixture
    def scorer(self, scorers: dict[str, Scorer]) -> Scorer:
        return scorers[self.which]

    def test_an_empty_history_scores_every_item_0(self, scorer: Scorer) -> None:
        assert (scorer.score([()]) == 0.0).all()


class TestLate(_ModelContract):
    which = "late"


class TestMerged(_ModelContract):
    which = "merged"


class TestPair(_ModelContract):
    which = "pair"


class TestSource(_ModelContract):
    which = "source"


class TestUntrained(_ModelContract):
    which = "untrained"


class TestMean(_ModelContract):
    which = "mean"


def test_the_mean_is_the_mean(tiny_models: Any, tiny_domain: Domain) -> None:
    both = [trained(path, tiny_domain.titles) for path in tiny_models.sources]
    expected = sum(scorer.score(HISTORIES) for scorer in both) / 2
    spec = "+".join(map(str, tiny_models.sources))
    subject = scorer_for(spec, tiny_domain)
    np.testing.assert_allclose(subject.scorer.score(HISTORIES), expected, atol=1e-6)
    assert subject.scorer.name == "mean(kitchen+camping)"


@pytest.mark.parametrize("which", [name for name in BASELINES if name not in ("untrained", "centered")])
def test_baselines_by_name(which: str, tiny_domain: Domain) -> None:
    subject = scorer_for(f"baseline:{which}", tiny_domain)
    assert subject.scorer.name == which
    assert subject.scorer.score([[0]]).shape == (1, 6)
    assert subject.seen_users(tiny_domain, "validation") is None
    assert not subject.pair


@pytest.mark.parametrize("which", ["untrained", "centered"])
def test_untrained_is_the_base_alone(which: str, tiny_models: Any, tiny_domain: Domain) -> None:
    subject = scorer_for(f"baseline:{which}", tiny_domain, base=str(tiny_models.base))
    model = build_model(SourceEncoder(load_base(str(tiny_models.base))))
    model = kind_of(model).centered(model, tiny_domain.titles) if which == "centered" else model
    expected = kind_of(model).scorer(model, tiny_domain.titles).score(HISTORIES)
    np.testing.assert_allclose(subject.scorer.score(HISTORIES), expected, atol=1e-6)
    assert subject.scorer.name == which
    assert subject.seen_users(tiny_domain, "validation") is None
    assert not subject.pair


def centered_elsewhere(source: Path, out: Path, record: Any) -> Path:
    """A copy of a source with a center of its own, whose manifest says what it was trained on."""
    titles = ["Garden hose", "Rake with long handle", "Watering can"]
    model = kind_of(bundle.load(source)).centered(bundle.load(source), titles)
    bundle.save(model, out, {"kind": "adapter", "domain": record})
    return out


def test_a_source_is_centered_on_the_domain_it_meets(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    folders = [
        centered_elsewhere(source, tmp_path / source.name, {"name": "garden", "fingerprint": "1" * 64})
        for source in tiny_models.sources
    ]
    expected = [trained(source, tiny_domain.titles, center=True).score(HISTORIES) for source in tiny_models.sources]
    for folder, scores in zip(folders, expected, strict=True):
        np.testing.assert_allclose(scorer_for(str(folder), tiny_domain).scorer.score(HISTORIES), scores, atol=1e-6)
    both = scorer_for("+".join(map(str, folders)), tiny_domain).scorer.score(HISTORIES)
    np.testing.assert_allclose(both, sum(expected) / 2, atol=1e-6)


def test_a_model_is_not_moved_on_its_own_domain_nor_without_a_center(
    tiny_models: Any, tiny_domain: Domain, tmp_path: Path
) -> None:
    record = {"name": "tiny", "fingerprint": tiny_domain.fingerprint}
    at_home = centered_elsewhere(tiny_models.sources[0], tmp_path / "home", record)
    unknown = centered_elsewhere(tiny_models.sources[0], tmp_path / "unknown", None)
    found = {path: scorer_for(str(path), tiny_domain).scorer.score(HISTORIES) for path in (at_home, unknown)}
    as_saved = kind_of(bundle.load(at_home)).scorer(bundle.load(at_home), tiny_domain.titles).score(HISTORIES)
    np.testing.assert_array_equal(found[at_home], as_saved)
    assert np.abs(found[unknown] - as_saved).max() > 1e-3  # a center of another catalogue would show
    for path in (tiny_models.sources[0], tiny_models.late):  # these have none, and are of other domains
        plain = kind_of(bundle.load(path)).scorer(bundle.load(path), tiny_domain.titles).score(HISTORIES)
        np.testing.assert_array_equal(scorer_for(str(path), tiny_domain).scorer.score(HISTORIES), plain)


@pytest.mark.parametrize("center", [False, True])
def test_the_precision_is_that_of_the_encoding(center: bool, tiny_models: Any, tiny_domain: Domain) -> None:
    exact, narrow = (
        untrained(str(tiny_models.base), tiny_domain.titles, center=center, precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert [encoder_of(scorer.model).precision for scorer in (exact, narrow)] == ["fp32", "bf16"]
    difference = np.abs(exact.score(HISTORIES) - narrow.score(HISTORIES)).max()
    assert 0 < difference < 0.05
    again = ModelScorer(narrow.model, tiny_domain.titles, name="again")  # each scorer sets its own
    np.testing.assert_array_equal(again.score(HISTORIES), exact.score(HISTORIES))
    with pytest.raises(ConfigError, match="unknown encoding precision 'fp16': choose one of fp32, bf16"):
        ModelScorer(narrow.model, tiny_domain.titles, name="x", precision="fp16")  # type: ignore[arg-type]
    source = trained(tiny_models.sources[0], tiny_domain.titles, precision="bf16")
    assert encoder_of(source.model).precision == "bf16"


def test_users_seen_by_sources_are_known_for_models(tiny_models: Any, tiny_domain: Domain) -> None:
    kitchen, camping = map(str, tiny_models.sources)
    seen = {
        spec: scorer_for(spec, tiny_domain).seen_users(tiny_domain, "validation")
        for spec in (kitchen, camping, f"{kitchen}+{camping}", str(tiny_models.late))
    }
    assert list(seen.values()) == [frozenset(), {"u3"}, {"u3"}, {"u3"}]


def test_a_foreign_peft_folder_scores_as_peft_does(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tiny_models.sources[0] / name, folder)
    base = load_base(str(tiny_models.base))
    encoder = SourceEncoder(base)
    encoder.backbone = PeftModel.from_pretrained(base.backbone, str(folder))
    expected = kind_of(build_model(encoder)).scorer(build_model(encoder), tiny_domain.titles).score(HISTORIES)
    subject = scorer_for(str(folder), tiny_domain)
    np.testing.assert_allclose(subject.scorer.score(HISTORIES), expected, atol=1e-5)
    assert subject.seen_users(tiny_domain, "validation") == frozenset()
    untouched = untrained(str(tiny_models.base), tiny_domain.titles).score(HISTORIES)
    assert np.abs(untouched - expected).max() > 1e-3


def test_a_plus_in_a_folders_name_is_no_mean(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    shutil.copytree(tiny_models.sources[0], tmp_path / "a+b")
    assert scorer_for(str(tmp_path / "a+b"), tiny_domain).scorer.name == "a+b"


def test_names_that_mean_nothing_are_refused(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    kitchen = str(tiny_models.sources[0])
    with pytest.raises(ConfigError, match="unknown baseline 'random': choose one of baseline:popularity, baseline:tf"):
        scorer_for("baseline:random", tiny_domain)
    with pytest.raises(BundleError, match=r"'nowhere' is no model: there is no such folder.*baseline:untrained"):
        scorer_for("nowhere", tiny_domain)
    with pytest.raises(BundleError, match="'nowhere' is no model"):
        scorer_for(f"{kitchen}+nowhere", tiny_domain)
    with pytest.raises(ConfigError, match=r"'baseline:tfidf' in .* cannot be part of a mean"):
        scorer_for(f"{kitchen}+baseline:tfidf", tiny_domain)
    with pytest.raises(ConfigError, match="would mix dual and pair scores"):
        scorer_for(f"{kitchen}+{tiny_models.pair}", tiny_domain)
    with pytest.raises(BundleError, match="no xcrossrec model"):
        scorer_for(str(tmp_path), tiny_domain)


def test_what_did_not_fit_is_counted(tiny_models: Any, tiny_domain: Domain) -> None:
    subject = scorer_for(str(tiny_models.pair), tiny_domain)
    assert isinstance(subject.scorer, ModelScorer)
    assert subject.pair
    assert subject.cut.prompts == 0
    subject.scorer.score([[0, 1, 2, 3, 4, 5] * 8], np.array([[0]]))
    assert subject.cut.prompts == 1
    assert subject.cut.items > 0
    assert Subject(Popularity(np.arange(3))).cut.prompts == 0
