"""Language models as rivals, and everything that a command line may name as a scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from xcrossrec.baselines.itemknn import ItemKNN
from xcrossrec.baselines.popularity import Popularity
from xcrossrec.baselines.rows import check_rows
from xcrossrec.baselines.tfidf import TfidfMean
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_CONFIG, MANIFEST, read_adapter, read_manifest
from xcrossrec.models.base import DEFAULT_BASE, load_base
from xcrossrec.models.heads import Center
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.tokens import CutReport
from xcrossrec.scoring import Scorer
from xcrossrec.training.source import seen_users
from xcrossrec.types import EncodingPrecision, Split

BASELINES: tuple[str, ...] = ("popularity", "tfidf", "itemknn", "untrained", "centered")
"""What may follow ``baseline:``."""

_PREFIX = "baseline:"


class ModelScorer:
    """A trained or untrained model bound to a catalogue; an empty history scores every item 0.

    Args:
        model: from :mod:`xcrossrec.models.bundle`.
        titles: the catalogue, in row order.
        name: what tables call it.
        precision: of the encoding, ``fp32`` or ``bf16``.
    """

    def __init__(
        self, model: Model, titles: Sequence[str], *, name: str, precision: EncodingPrecision = "fp32"
    ) -> None:
        self.model = model
        encoder_of(model).precision = precision
        self.inner = kind_of(model).scorer(model, titles, name=name)
        self._name = name
        self._n_items = len(titles)

    @property
    def name(self) -> str:
        """What tables and result files call it."""
        return self._name

    @property
    def cut(self) -> CutReport:
        """How much text did not fit the model so far."""
        return encoder_of(self.model).cut

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates by the model; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        check_rows(histories, candidates, self._n_items)
        width = self._n_items if candidates is None else candidates.shape[1]
        scores: Float32[np.ndarray, "user candidate"] = np.zeros((len(histories), width), dtype=np.float32)
        filled = [user for user, history in enumerate(histories) if len(history)]
        if filled and width:
            chosen = None if candidates is None else candidates[filled]
            scores[filled] = self.inner.score([histories[user] for user in filled], chosen)
        return scores


class MeanScorer:
    """The mean of several scorers' scores, user by user: what ``a+b`` means on the command line.

    Args:
        scorers: at least two, bound to one catalogue and on one scale (models of one scoring).
        name: what tables call it; None joins their names.

    Raises:
        ConfigError: fewer than two scorers.
    """

    def __init__(self, scorers: Sequence[Scorer], *, name: str | None = None) -> None:
        if len(scorers) < 2:
            raise ConfigError(f"a mean needs at least 2 scorers, got {len(scorers)}: name another one")
        self.scorers = tuple(scorers)
        self._name = name or f"mean({'+'.join(scorer.name for scorer in scorers)})"

    @property
    def name(self) -> str:
        """What tables and result files call it."""
        return self._name

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Average the scores; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        scores = np.stack([scorer.score(histories, candidates) for scorer in self.scorers])
        mean: Float32[np.ndarray, "user candidate"] = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Subject:
    """A scorer that somebody named, and the model folders it was made of.

    Attributes:
        scorer: bound to the domain's catalogue.
        paths: of its models; none for a baseline without training.
    """

    scorer: Scorer
    paths: tuple[Path, ...] = ()

    def seen_users(self, domain: Domain, split: Split) -> frozenset[str] | None:
        """The split's users whom some source saw in training; None where there are no sources."""
        if not self.paths:
            return None
        return frozenset().union(*(seen_users(path, domain, split) for path in self.paths))

    @property
    def cut(self) -> CutReport:
        """How much text did not fit the models so far; the largest of several."""
        return max((m.cut for m in self._models), key=lambda report: report.prompts, default=CutReport())

    @property
    def pair(self) -> bool:
        """Whether every candidate costs an encoder pass."""
        return any(kind_of(model.model).name == "pair" for model in self._models)

    @property
    def _models(self) -> list[ModelScorer]:
        scorers = self.scorer.scorers if isinstance(self.scorer, MeanScorer) else (self.scorer,)
        return [scorer for scorer in scorers if isinstance(scorer, ModelScorer)]


def untrained(
    base: str,
    titles: Sequence[str],
    *,
    center: bool = False,
    precision: EncodingPrecision = "fp32",
    name: str | None = None,
) -> ModelScorer:
    """Score by the base model's own similarity of titles, without any training.

    Args:
        base: see :func:`xcrossrec.models.base.load_base`.
        titles: the catalogue, in row order.
        center: take the catalogue's mean vector off every title's.
        precision: of the encoding.
        name: what tables call it.
    """
    model = build_model(SourceEncoder(load_base(base)))
    model = kind_of(model).centered(model, titles) if center else model
    model.eval()
    called = "centered" if center else "untrained"
    return ModelScorer(model, titles, name=name or called, precision=precision)


def trained(
    path: Path | str,
    titles: Sequence[str],
    *,
    name: str | None = None,
    center: bool = False,
    precision: EncodingPrecision = "fp32",
) -> ModelScorer:
    """Score by a bundle, one of this project's adapters, or a PEFT LoRA folder made elsewhere.

    Args:
        path: the folder. A foreign adapter gets the default head, untrained, over the base it names.
        titles: the catalogue, in row order.
        name: what tables call it; the folder's name if None.
        center: center the model on this catalogue, whatever it was trained on.
        precision: of the encoding.

    Raises:
        BundleError: the folder is missing, incomplete, corrupt or foreign.
    """
    folder = Path(path)
    foreign = (folder / ADAPTER_CONFIG).exists() and not (folder / MANIFEST).exists()
    model = _merged(folder) if foreign else bundle.load(folder)
    model = kind_of(model).centered(model, titles) if center else model
    return ModelScorer(model, titles, name=name or folder.resolve().name, precision=precision)


def _merged(folder: Path) -> Model:
    """Add a foreign adapter's updates to the base it names."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = load_base(config.get("base_model_name_or_path") or DEFAULT_BASE)
    adapter = read_adapter(folder, base)
    with torch.no_grad():
        for module, update in adapter.factors.items():
            base.backbone.get_submodule(module).weight += update.up @ update.down
    model = build_model(SourceEncoder(base))
    model.eval()
    return model


def scorer_for(
    spec: str,
    domain: Domain,
    *,
    base: str = DEFAULT_BASE,
    name: str | None = None,
) -> Subject:
    """Make the scorer that a command line names, bound to a domain's catalogue.

    Args:
        spec: a bundle's or an adapter's folder, several adapters joined by ``+`` (mean of their scores), or
            ``baseline:`` and one of :data:`BASELINES`.
        domain: gives the catalogue, and the train split to baselines that count.
        base: base model of ``baseline:untrained``.
        name: what tables call it; None takes the baseline's or the folder's name.

    Raises:
        ConfigError: an unknown baseline.
        BundleError: no such folder, or not a model.
    """
    if spec.startswith(_PREFIX):
        return Subject(_baseline(spec.removeprefix(_PREFIX), domain, base, name))
    if Path(spec).exists() or "+" not in spec:
        return Subject(_on_domain(_existing(spec), domain, name), (Path(spec),))
    parts = spec.split("+")
    if bad := [part for part in parts if part.startswith(_PREFIX) or not part]:
        raise ConfigError(f"{bad[0]!r} in {spec!r} cannot be part of a mean: join folders of adapters, as in a+b")
    scorers = [_on_domain(_existing(part), domain) for part in parts]
    kinds = sorted({kind_of(scorer.model).name for scorer in scorers})
    if len(kinds) > 1:
        raise ConfigError(
            f"the mean of {spec!r} would mix {' and '.join(kinds)} scores, which are on different scales: join models "
            "of one scoring"
        )
    return Subject(MeanScorer(scorers, name=name), tuple(map(Path, parts)))


def _on_domain(folder: Path, domain: Domain, name: str | None = None) -> ModelScorer:
    """A model on a domain's catalogue; a source that was centered on its own domain is centered on this one."""
    record = read_manifest(folder).get("domain")
    trained_on = record.get("fingerprint") if isinstance(record, dict) else None
    centered = any(folder.glob(f"*_{Center.__name__}"))
    return trained(folder, domain.titles, name=name, center=centered and trained_on != domain.fingerprint)


def _existing(spec: str) -> Path:
    if not Path(spec).is_dir():
        raise BundleError(
            f"{spec!r} is no model: there is no such folder; give the folder of a bundle or an adapter, several "
            f"adapters joined by +, or one of {', '.join(_PREFIX + name for name in BASELINES)}"
        )
    return Path(spec)


def _baseline(which: str, domain: Domain, base: str, name: str | None) -> Scorer:
    scorer: Scorer
    if which == "popularity":
        scorer = Popularity.fit(domain)
    elif which == "tfidf":
        scorer = TfidfMean.fit(domain)
    elif which == "itemknn":
        scorer = ItemKNN.fit(domain)
    elif which in ("untrained", "centered"):
        return untrained(base, domain.titles, center=which == "centered", name=name)
    else:
        raise ConfigError(
            f"unknown baseline {which!r}: choose one of {', '.join(_PREFIX + known for known in BASELINES)}"
        )
    return scorer if name is None else Renamed(scorer, name)


@dataclass(frozen=True)
class Renamed:
    """A scorer under another name.

    Attributes:
        scorer: what scores.
        name: what tables call it.
    """

    scorer: Scorer
    name: str

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Pass on; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        scores: Float[np.ndarray, "user candidate"] = self.scorer.score(histories, candidates)
        return scores
