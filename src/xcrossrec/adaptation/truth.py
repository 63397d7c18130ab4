"""Explanations that are true: what a reason names is taken away, and the score must fall as the reason claims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from xcrossrec.adaptation.decision import Explained
from xcrossrec.answers import Explanation
from xcrossrec.data.domain import Domain
from xcrossrec.models.model import encoder_of
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.recommender import Recommender
from xcrossrec.types import ITEM, Split

AS_CLAIMED = 0.05
"""Share of the claimed effect by which what is measured may differ from it: vectors are rounded."""


@dataclass(frozen=True)
class Claim:
    """What an explanation says that a reason adds to the score, and what was measured without it.

    Attributes:
        reason: ``history``, ``source`` or ``bought together``.
        measured: the score minus that of the model or history without it.
    """

    reason: str
    claimed: float
    measured: float

    @property
    def holds(self) -> bool:
        """Whether the score fell, and by as much as was claimed."""
        return self.measured > 0 and math.isclose(self.measured, self.claimed, rel_tol=AS_CLAIMED, abs_tol=1e-4)


def check_explanations(
    recommender: Recommender, domain: Domain, *, users: int = 100, split: Split = "test", seed: int = 0
) -> Explained | None:
    """Check the reasons of the first recommendation of some of a domain's customers, at most ``users``, drawn by seed.

    A customer counts as one whose score fell if every reason that is named to her does what it says.

    Returns:
        how many of how many, with Wilson's 95% interval; None where no reason could be taken away, as where every
        history has one item and there is one source.
    """
    ids, (found, _) = domain.items[ITEM].to_list(), domain.sequences(split).histories_and_targets()
    sample = np.random.default_rng(seed).permutation(len(found))[:users]
    histories = [[ids[item] for item in found[row]] for row in sample]
    every = [claims_of(recommender, history, repeats=domain.keeps_repeats) for history in histories]
    checked = [claims for claims in every if claims]
    if not checked:
        return None
    fell = sum(all(claim.holds for claim in claims) for claims in checked)
    interval = binomtest(fell, len(checked)).proportion_ci(method="wilson")
    return Explained(checked=len(checked), fell=fell, share=fell / len(checked), low=interval.low, high=interval.high)


def claims_of(recommender: Recommender, history: Sequence[str], *, repeats: bool = False) -> list[Claim]:
    """Take away, one by one, what the explanation of the first recommendation names.

    The history's ids, oldest first, are in the recommender's catalogue; ``repeats`` lets it recommend these again.
    """
    asked = [f"id:{item}" for item in history]
    top = recommender.recommend(asked, k=1, include_bought=repeats)
    if not top:
        return []
    (reason,) = recommender.explain_many(asked, [f"id:{top[0].item_id}"])
    return [
        *_without_item(recommender, asked, top[0].item_id, reason),
        *_without_part(recommender, history, top[0].item_id, reason),
    ]


def _without_item(recommender: Recommender, asked: Sequence[str], item: str, reason: Explanation) -> Iterator[Claim]:
    """Ask the recommender itself, again without the history's item that is said to match best."""
    if reason.best_match.effect is None:
        return
    slot = reason.matches.index(reason.best_match)
    (whole,) = recommender.score(asked, [f"id:{item}"])
    (rest,) = recommender.score([*asked[:slot], *asked[slot + 1 :]], [f"id:{item}"])
    yield Claim("history", reason.best_match.effect, whole.score - rest.score)


def _without_part(recommender: Recommender, history: Sequence[str], item: str, reason: Explanation) -> Iterator[Claim]:
    """Encode everything afresh with a model that lacks the source that is said to add most, or co-purchases."""
    encoder: Any = encoder_of(recommender.model)
    named = [*history, item]
    stored = recommender.catalogue.snapshot().get(named)
    texts = [each.read(encoder.text) for each in stored if each is not None]

    def score(*, text_alone: bool = False) -> float:
        scorer = ModelScorer(recommender.model, texts, name="checked", ids=named)
        ranking = scorer.inner if text_alone else scorer
        return float(ranking.score([range(len(history))], np.array([[len(history)]]))[0, 0])

    whole = score()
    if reason.copurchase_effect is not None and reason.copurchase_effect > 0:
        yield Claim("bought together", reason.copurchase_effect, whole - score(text_alone=True))
    several = reason.integration_effect is not None  # streams, else one that is merged
    effects = [share.effect if several else share.stream_effect for share in reason.sources]
    if (claimed := max(effects, default=0.0)) > 0:
        strongest = effects.index(claimed)
        with encoder.silenced(strongest) if several else encoder.left_out(strongest):
            yield Claim("source", claimed, whole - score())
