"""Whose last items a suite's cells rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xcrossrec import ConfigError, Domain
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET
from xcrossrec_lab.suites.suite import Suite


@dataclass(frozen=True)
class Ranked:
    """The users that every cell of a target ranks.

    Attributes:
        domain: the target; its split has these users and no others.
        directory: where their candidate lists are kept; None draws the same ones anew each time.
    """

    domain: Domain
    directory: Path | None


def ranked_users(suite: Suite, domain: Domain) -> Ranked:
    """Choose the users that a suite ranks on one target: all those of its split.

    Of ``train`` they are those whom no cell of the grid learns from, under any seed, so that every method meets the
    same users and has seen none of them.

    Args:
        suite: gives the split and the grid.
        domain: the whole target.

    Raises:
        ConfigError: the split is ``train``, and the grid learns from all of its users.
    """
    if suite.split != "train":
        return Ranked(domain, suite.data / domain.name)
    sequences = domain.sequences("train")
    draws = {(cell.budget, cell.seed) for cell in suite.cells() if cell.target == domain.name}
    draws = {(budget, seed) for budget, seed in draws if budget != NO_BUDGET}
    drawn = {user for budget, seed in draws for user in sequences.take(budget or None, seed).user_ids}
    frame = domain.frame("train")
    left = frame.filter(~frame["user_id"].is_in(list(drawn)))
    if left.is_empty():
        most = "all" if ALL in {budget for budget, _ in draws} else max(budget for budget, _ in draws)
        raise ConfigError(
            f"split 'train' ranks the users of {domain.name!r} whom no cell learns from, but the grid takes all "
            f"{len(sequences)} (its largest budget is {most}): leave out budgets or seeds, or rank 'validation'"
        )
    return Ranked(replace(domain, interactions={"train": left}), None)
