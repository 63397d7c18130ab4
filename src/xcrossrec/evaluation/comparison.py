"""Paired comparison of two results: the same users, candidates and data, or none at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from xcrossrec.arguments import checked
from xcrossrec.evaluation.result import SEEN, Evaluation
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.metrics.ranking import METRICS
from xcrossrec.metrics.significance import paired_comparison
from xcrossrec.types import USER, Negatives


@checked
def compare(a: Evaluation, b: Evaluation, *, permutations: int = 10_000) -> dict[str, Any]:
    """Compare two methods on the same users, for every kind of negatives that both have.

    Args:
        a: the method that a positive difference favours.
        b: the other method.
        permutations: sign flips behind each p-value.

    Returns:
        ``{"a": name, "b": name, "domain", "split", "seed", "simulated", "users",
        "metrics": {negatives: {metric: {"mean_a", "mean_b", "difference", "ci": [low, high], "p",
        "users"}}}}``, the same table ``without_seen`` users of the sources' training sets where known, and ``lists``:
        ``{metric: {"a", "b"}}``, where both ranked the whole catalogue.

    Raises:
        DataError: another domain, content, split, seed, set of users or candidate count, or no kind of
            negatives in common; names both values.
        ConfigError: a negative number of permutations.
    """
    if permutations < 0:
        raise ConfigError(f"permutations is {permutations}: give 0 or more")
    for what in ("domain", "fingerprint", "split", "seed"):
        of_a, of_b = getattr(a.info, what), getattr(b.info, what)
        if of_a != of_b:
            raise DataError(
                f"results of another {what} cannot be compared, got {of_a!r} and {of_b!r}: "
                f"evaluate both methods with the same {what}"
            )
    pairs = {kind: _pair(a, b, kind) for kind in a.negatives if kind in b.negatives}
    if not pairs:
        raise DataError(
            f"results have no negatives in common, got {', '.join(a.negatives)} and "
            f"{', '.join(b.negatives)}: evaluate both methods with the same --negatives"
        )
    result: dict[str, Any] = {
        "a": a.info.scorer,
        "b": b.info.scorer,
        "domain": a.info.domain,
        "split": a.info.split,
        "seed": a.info.seed,
        "simulated": a.info.simulated or b.info.simulated,
        "users": next(iter(pairs.values())).height,
        "metrics": {kind: _compare_metrics(pair, a.info.seed, permutations) for kind, pair in pairs.items()},
    }
    if a.info.lists and (of_b := b.info.lists):
        result["lists"] = {name: {"a": value, "b": of_b[name]} for name, value in a.info.lists.items() if name in of_b}
    unseen = {kind: pair.filter(~pl.col(SEEN)) for kind, pair in pairs.items()}
    if all(pair[SEEN].null_count() == 0 and unseen[kind].height for kind, pair in pairs.items()):
        result["without_seen"] = {
            kind: _compare_metrics(pair, a.info.seed, permutations) for kind, pair in unseen.items()
        }
    return result


def _pair(a: Evaluation, b: Evaluation, kind: Negatives) -> pl.DataFrame:
    """Align both results by user; a user counts as seen where either method's sources saw them."""
    of_a, of_b = a.of(kind), b.of(kind)
    missing = _outsiders(of_a, of_b), _outsiders(of_b, of_a)
    if any(missing):
        raise DataError(
            f"results of other users cannot be compared, got {of_a.height} and {of_b.height} users, "
            f"only in the first: {_some(missing[0])}, only in the second: {_some(missing[1])}: "
            "evaluate both methods on the same data"
        )
    pair = of_a.join(of_b, on=USER, suffix=" b", validate="1:1", maintain_order="left")
    odd = pair.filter(pl.col("candidates") != pl.col("candidates b"))
    if odd.height:
        user, left, right = odd.select(USER, "candidates", "candidates b").row(0)
        raise DataError(
            f"{kind!r} results rank another number of candidates, got {left} and {right} for user {user!r}: "
            "evaluate both methods with the same candidates"
        )
    return pair.with_columns(pl.max_horizontal(SEEN, f"{SEEN} b").alias(SEEN))  # unknown to one: the other's


def _outsiders(these: pl.DataFrame, those: pl.DataFrame) -> list[str]:
    return these.join(those, on=USER, how="anti")[USER].to_list()


def _some(users: list[str]) -> str:
    return ", ".join(users[:3]) + (", ..." if len(users) > 3 else "") if users else "none"


def _compare_metrics(pair: pl.DataFrame, seed: int, permutations: int) -> dict[str, Any]:
    rows = {}
    for metric in METRICS:
        of_a, of_b = pair[metric].to_numpy(), pair[f"{metric} b"].to_numpy()
        found = paired_comparison(of_a, of_b, permutations=permutations, rng=np.random.default_rng(seed))
        rows[metric] = {
            "mean_a": float(of_a.mean()),
            "mean_b": float(of_b.mean()),
            "difference": found.difference,
            "ci": list(found.interval),
            "p": found.p_value,
            "users": found.users,
        }
    return rows
