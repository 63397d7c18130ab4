"""Made-up results for the tests beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from xcrossrec.evaluation.result import RESULT_SCHEMA, Evaluation, EvaluationInfo
from xcrossrec.metrics.ranking import per_user_metrics

INFO = EvaluationInfo("tfidf", "tools", "ab" * 32, "validation", 4, "0.1.0", 1.25)


def result_of(ranks: dict[str, list[int]], *, seen: list[bool | None] | None = None, **info: object) -> Evaluation:
    """Results of the users u0, u1, ... from their ranks per kind of negatives."""
    frames = []
    for kind, of_kind in ranks.items():
        rank = np.array(of_kind, dtype=np.int64)
        columns = {
            "user_id": [f"u{user}" for user in range(rank.size)],
            "negatives": [kind] * rank.size,
            "candidates": [30] * rank.size,
            "rank": rank,
            **per_user_metrics(rank),
            "seen_in_source": seen or [None] * rank.size,
        }
        frames.append(pl.DataFrame(columns, schema=RESULT_SCHEMA))
    return Evaluation(pl.concat(frames), replace(INFO, **info))  # type: ignore[arg-type]
