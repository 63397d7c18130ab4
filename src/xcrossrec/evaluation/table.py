"""Summaries and comparisons for people: aligned tables, and the verdict in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xcrossrec.metrics.ranking import METRICS
from xcrossrec.types import Negatives

SIMULATED = "simulated users: these numbers show that the software works, nothing about people"


def summary_table(summary: Mapping[str, Any]) -> str:
    """Set a summary out, a row per kind of negatives.

    Args:
        summary: what :meth:`Evaluation.summary` returned.

    Returns:
        lines without a final newline: a caption, the table, then notes and warnings.
    """
    rows = [
        [kind, summary["scorer"], *(_mean_with_interval(found, name) for name in METRICS)]
        for kind, found in summary["metrics"].items()
    ]
    caption = f"{summary['domain']} {summary['split']}: {summary['users']} users, seed {summary['seed']}"
    notes = list(summary["warnings"])
    if "without_seen" in summary:
        notes.append(_without_seen_note(summary["without_seen"]))
    table = aligned(["negatives", "scorer", *METRICS], rows, text_columns=2)
    return _assemble(f"{caption}; mean [95% interval]", table, notes, simulated=summary["simulated"])


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Set a comparison out: the verdict for each kind of negatives, then a row per kind and metric.

    Args:
        comparison: what :func:`xcrossrec.evaluation.compare` returned.

    Returns:
        lines without a final newline.
    """
    rows = []
    for kind, of_kind in comparison["metrics"].items():
        for name, found in of_kind.items():
            low, high = found["ci"]
            numbers = [f"{found['mean_a']:.3f}", f"{found['mean_b']:.3f}", f"{found['difference']:+.3f}"]
            rows.append([kind, name, *numbers, f"[{low:+.3f}, {high:+.3f}]", f"{found['p']:.4f}"])
    table = aligned(["negatives", "metric", "a", "b", "a - b", "95% interval", "p"], rows, text_columns=2)
    caption = (
        f"a = {comparison['a']}, b = {comparison['b']}; {comparison['domain']} {comparison['split']}: "
        f"{comparison['users']} users, seed {comparison['seed']}"
    )
    notes = [verdict(comparison, kind) for kind in comparison["metrics"]]
    for kind, metrics in comparison.get("without_seen", {}).items():
        if metrics["mrr"]["users"] < comparison["users"]:
            notes.append(
                f"Only the {metrics['mrr']['users']:,} users unseen in a source: {_difference(metrics, kind)}."
            )
    return _assemble(caption, table, notes, simulated=comparison["simulated"])


def verdict(comparison: Mapping[str, Any], negatives: Negatives) -> str:
    """Say in a sentence which of two methods ranks better; only an interval clear of 0 is a yes.

    Args:
        comparison: what :func:`xcrossrec.evaluation.compare` returned.
        negatives: a kind that it has.
    """
    metrics = comparison["metrics"][negatives]
    low, high = metrics["mrr"]["ci"]
    a, b = comparison["a"], comparison["b"]
    if low > 0:
        said = f"{a} ranks better than {b}"
    elif high < 0:
        said = f"{a} ranks worse than {b}"
    else:
        said = f"No clear difference between {a} and {b}"
    return f"{said}: {_difference(metrics, negatives)}."


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> list[str]:
    """Align cells to their column: the first ``text_columns`` to the left, numbers to the right."""
    widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]
    lines = [
        [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return ["  ".join(line).rstrip() for line in lines]


def _difference(metrics: Mapping[str, Any], negatives: Negatives) -> str:
    found = metrics["mrr"]
    low, high = found["ci"]
    against = "the whole catalogue" if negatives == "full" else f"{negatives} negatives"
    return f"MRR {found['difference']:+.3f} (95% interval {low:+.3f} to {high:+.3f}) against {against}"


def _mean_with_interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics["ci"][name]
    return f"{metrics[name]:.3f} [{low:.3f}, {high:.3f}]"


def _without_seen_note(part: Mapping[str, Any]) -> str:
    if not part["users"]:
        return "every user was seen in a source"
    means = (f"{kind} mrr {of_kind['mrr']:.3f}" for kind, of_kind in part["metrics"].items())
    return f"only the {part['users']} users unseen in a source: {', '.join(means)}"


def _assemble(caption: str, table: Sequence[str], notes: Sequence[str], *, simulated: bool) -> str:
    extra = [*notes, *([SIMULATED] if simulated else [])]
    return "\n".join([caption, "", *table, *(["", *extra] if extra else [])])
