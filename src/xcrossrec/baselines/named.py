"""Scorers by the names that the command line accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int

from xcrossrec.arguments import checked
from xcrossrec.baselines.names import PREFIX, parts_of
from xcrossrec.baselines.rivals import ItemKNN, Popularity, TfidfMean
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.adapters import read_manifest
from xcrossrec.models.base import DEFAULT_BASE
from xcrossrec.models.heads import Center
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.purchases import term_of
from xcrossrec.models.scorer import ModelScorer, as_read, trained, untrained
from xcrossrec.models.tokens import CutReport
from xcrossrec.scoring import Scorer
from xcrossrec.training.source import seen_users
from xcrossrec.types import ITEM, Split

_MADE: dict[str, Callable[[Domain, str], Scorer]] = {
    "popularity": lambda domain, base: Popularity(domain.train_counts()),
    "tfidf": lambda domain, base: TfidfMean(domain.texts),
    "itemknn": lambda domain, base: ItemKNN(domain.sequences("train", minimum=1).rows, domain.items.height),
    "untrained": lambda domain, base: untrained(base, domain.texts),
    "centered": lambda domain, base: untrained(base, domain.texts, center=True),
}


class MeanScorer:
    """The mean of several scorers' scores, written ``a+b`` on the command line.

    All are bound to the same catalogue and have the same scale (models of one scoring).
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = tuple(scorers)
        self.name = f"mean({'+'.join(scorer.name for scorer in scorers)})"

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Average the scores; see :class:`xcrossrec.scoring.Scorer`."""
        scores = np.stack([scorer.score(histories, candidates) for scorer in self.scorers])
        mean: Float32[np.ndarray, "user candidate"] = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Subject:
    """A scorer and the model folders that it was loaded from.

    Attributes:
        scorer: bound to the domain's catalogue.
        paths: of its models; empty for a baseline without training.
    """

    scorer: Scorer
    paths: tuple[Path, ...] = ()

    def seen_users(self, domain: Domain, split: Split) -> frozenset[str] | None:
        """The split's users who were in the training set of a source; None if there are no models."""
        if not self.paths:
            return None
        return frozenset().union(*(seen_users(path, domain, split) for path in self.paths))

    def known_targets(self, domain: Domain, split: Split) -> int:
        """How many of the split's targets are among the purchases that a model knows."""
        counts = [term.counts for each in self._models if (term := term_of(each.model)) is not None]
        sequences, ids = domain.sequences(split), domain.items[ITEM].to_list()
        last = [(user, ids[rows[-1]]) for user, rows in zip(sequences.user_ids, sequences.rows, strict=True)]
        return sum(any(item in each.of_user(user) for each in counts) for user, item in last)

    @property
    def cut(self) -> CutReport:
        """How much text was cut by the models so far; the largest of several reports."""
        return max((m.cut for m in self._models), key=lambda report: report.prompts, default=CutReport())

    @property
    def pair(self) -> bool:
        """Whether each candidate needs an encoder pass."""
        return any(kind_of(model.model).name == "pair" for model in self._models)

    @property
    def _models(self) -> list[ModelScorer]:
        scorers = self.scorer.scorers if isinstance(self.scorer, MeanScorer) else (self.scorer,)
        return [scorer for scorer in scorers if isinstance(scorer, ModelScorer)]


@checked
def scorer_for(spec: str | Path, domain: Domain, *, base: str | Path | None = None, strict: bool = False) -> Subject:
    """Make a scorer from its name on the command line, bound to a domain's catalogue.

    Args:
        spec: a bundle's or an adapter's folder, several adapters joined by ``+`` (mean of their scores), or
            ``baseline:`` and one of :data:`~xcrossrec.baselines.names.BASELINES`.
        domain: gives the catalogue, and the train split to baselines that count.
        base: folder or name of the base of ``baseline:untrained`` and ``baseline:centered`` (None: the embedded one),
            or of the models (None: it is found, see :func:`xcrossrec.load`).
        strict: refuse an adapter made elsewhere if only its shapes suggest that it fits its base.

    Raises:
        ConfigError: an unknown baseline.
        BaseMismatchError: a model belongs to another base, or its base is not found.
        BundleError: no such folder, or not a model.
    """
    parts = parts_of(str(spec))
    if parts[0].startswith(PREFIX):
        return Subject(_MADE[parts[0].removeprefix(PREFIX)](domain, str(base or DEFAULT_BASE)))
    scorers = [_on_domain(Path(part), domain, base, strict) for part in parts]
    if len(scorers) == 1:
        return Subject(scorers[0], (Path(parts[0]),))
    kinds = sorted({kind_of(scorer.model).name for scorer in scorers})
    if len(kinds) > 1:
        raise ConfigError(
            f"the mean of {spec!r} would mix {' and '.join(kinds)} scores, which are on different scales: join models "
            "of one scoring"
        )
    return Subject(MeanScorer(scorers), tuple(map(Path, parts)))


def _on_domain(folder: Path, domain: Domain, base: str | Path | None, strict: bool) -> ModelScorer:
    """Bind a model to a domain's catalogue; the centering of a source is computed again for it."""
    trained_on = (read_manifest(folder).get("domain") or {}).get("fingerprint")
    centered = any(folder.glob(f"*_{Center.__name__}"))
    read = as_read(folder, domain)
    elsewhere = centered and trained_on != read.fingerprint
    ids = read.items[ITEM].to_list()
    return trained(folder, read.texts, base=base, strict=strict, center=elsewhere, ids=ids)
