"""What should be known before anybody ships: risks of the data as sentences, and what the lists are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xcrossrec.adaptation.decision import Beyond, Risk
from xcrossrec.data.domain import Domain
from xcrossrec.data.lint import lint


def risks_of(domains: Sequence[Domain]) -> tuple[Risk, ...]:
    """What the linter finds in target and sources, what makes results wrong first."""
    report = lint(domains)
    return tuple(
        Risk(code=found.code, sentence=f"{found.domain}{f' ({found.split})' if found.split else ''}: {found.message}.")
        for found in (*report.of("error"), *report.of("warning"))
    )


def beyond_of(lists: Mapping[str, float] | None) -> Beyond | None:
    """What the lists of a candidate are like beside being right.

    Args:
        lists: of :class:`xcrossrec.evaluation.EvaluationInfo`.

    Returns:
        ``coverage``, ``gini`` and ``novelty`` (bits) as :func:`xcrossrec.metrics.lists.list_metrics` has them;
        ``popularity`` is how often a listed product was bought over how often one that customers bought next was, so
        that more than 1 is a bias towards what sells most; None where there are no lists.
    """
    if not lists:
        return None
    bought = lists.get("popularity_bought")
    return Beyond(
        coverage=lists["coverage@10"],
        gini=lists["gini@10"],
        novelty=lists.get("novelty@10"),
        popularity=lists["popularity@10"] / bought if bought else None,
    )
