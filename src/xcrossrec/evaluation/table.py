"""Summaries and comparisons for people: aligned tables, and the verdict in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xcrossrec.metrics.lists import LENGTH
from xcrossrec.metrics.ranking import METRICS
from xcrossrec.scoring import KNOWN
from xcrossrec.types import Negatives

_LISTS = {
    f"coverage@{LENGTH}": ("coverage {}", ".3f"),
    f"gini@{LENGTH}": ("Gini {}", ".3f"),
    f"novelty@{LENGTH}": ("novelty {} bits", ".2f"),
    f"popularity@{LENGTH}": ("an item bought {} times in train", ".1f"),
    "popularity_bought": ("what was bought next {} times", ".1f"),
}
"""What people call a metric of lists, and how its values are written."""

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
    for rung, words in KNOWN.items():
        for kind, found in summary.get("by_rung", {}).get(rung, {}).items():
            rows.append([kind, f"known: {words}", *(_mean_with_interval(found, name) for name in METRICS)])
    caption = f"{summary['domain']} {summary['split']}: {summary['users']} users, seed {summary['seed']}"
    notes = list(summary["warnings"])
    if rungs := summary.get("rungs"):
        counts = [f"{rungs[rung]:,} {words}" for rung, words in KNOWN.items() if rung in rungs]
        notes.append(f"What is known of the users: {', '.join(counts)}.")
    if unseen := summary.get("without_seen"):
        means = (f"{kind} mrr {of_kind['mrr']:.3f}" for kind, of_kind in unseen["metrics"].items())
        some = f"only the {unseen['users']} users unseen in a source: {', '.join(means)}"
        notes.append(some if unseen["users"] else "every user was seen in a source")
    if "lists" in summary:
        notes.insert(0, _lists_note({name: (value,) for name, value in summary["lists"].items()}))
    table = aligned(["negatives", "scorer", *METRICS], rows, text_columns=2)
    return _assemble(f"{caption}; mean [95% interval]", table, notes, simulated=summary["simulated"])


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """Set a comparison out: the verdict in a sentence, then the MRR in a row a kind of negatives.

    Args:
        comparison: what :func:`xcrossrec.evaluation.compare` returned.

    Returns:
        lines without a final newline.
    """
    rows = []
    for kind, metrics in comparison["metrics"].items():
        found = metrics["mrr"]
        low, high = found["ci"]
        numbers = [f"{found['mean_a']:.4f}", f"{found['mean_b']:.4f}", f"{found['difference']:+.4f}"]
        rows.append([kind, *numbers, f"[{low:+.4f}, {high:+.4f}]", f"{found['p']:.4f}"])
    a, b = _names(comparison)
    table = aligned(["negatives", f"MRR of {a}", f"MRR of {b}", "difference", "95% interval", "p"], rows)
    lead = _lead(comparison)
    notes = [
        f"{comparison['domain']} {comparison['split']}: {comparison['users']:,} users, seed {comparison['seed']}; "
        f"--json has {', '.join(name for name in METRICS if name != 'mrr')}, too"
    ]
    if "lists" in comparison:
        notes.append(_lists_note({name: (of["a"], of["b"]) for name, of in comparison["lists"].items()}))
    unseen = comparison.get("without_seen", {}).get(lead)
    if unseen and unseen["mrr"]["users"] < comparison["users"]:
        notes.append(f"Only the {unseen['mrr']['users']:,} users unseen in a source: {_difference(unseen, lead)}.")
    return _assemble(headline(comparison), table, notes, simulated=comparison["simulated"])


def headline(comparison: Mapping[str, Any]) -> str:
    """Say which of two methods ranks better, by how much and how sure, for all kinds of negatives together.

    Args:
        comparison: what :func:`xcrossrec.evaluation.compare` returned.
    """
    lead = _lead(comparison)
    signs = {kind: _sign(metrics) for kind, metrics in comparison["metrics"].items()}
    said = {1: "it ranks better, too", -1: "it ranks worse, too", 0: "they cannot be told apart, either"}
    a, _ = _names(comparison)
    other = {1: f"{a} ranks better", -1: f"{a} ranks worse", 0: "they cannot be told apart"}
    sentences = [verdict(comparison, lead)]
    for sign in (signs[lead], *(sign for sign in (0, 1, -1) if sign != signs[lead])):
        if kinds := [_against(kind) for kind, found in signs.items() if found == sign and kind != lead]:
            words = (said if sign == signs[lead] else other)[sign]
            subject = " and ".join(kinds)
            sentences.append(f"{subject[:1].upper()}{subject[1:]} {words}.")
    return " ".join(sentences)


def verdict(comparison: Mapping[str, Any], negatives: Negatives) -> str:
    """Say in a sentence which of two methods ranks better; only an interval clear of 0 is a yes.

    Args:
        comparison: what :func:`xcrossrec.evaluation.compare` returned.
        negatives: a kind that it has.
    """
    metrics = comparison["metrics"][negatives]
    a, b = _names(comparison)
    words = {1: "ranks better than", -1: "ranks worse than", 0: "cannot be told apart from"}
    return f"{a} {words[_sign(metrics)]} {b}: {_difference(metrics, negatives)}."


def _lead(comparison: Mapping[str, Any]) -> Negatives:
    """The kind that the verdict is said of first: popularity alone wins nothing there."""
    kinds: list[Negatives] = list(comparison["metrics"])
    return "popularity" if "popularity" in kinds else kinds[0]


def _names(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """What the methods are called; two of one name are told apart."""
    a, b = comparison["a"], comparison["b"]
    return (a, b) if a != b else (f"{a} (first)", f"{b} (second)")


def _sign(metrics: Mapping[str, Any]) -> int:
    low, high = metrics["mrr"]["ci"]
    return int(low > 0) - int(high < 0)


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
    share = f" ({found['difference'] / found['mean_b']:+.1%})" if found["mean_b"] else ""
    interval = f"95% interval {low:+.3f} to {high:+.3f}"
    return f"MRR {found['difference']:+.3f}{share}, {interval}, {_against(negatives)}"


def _against(negatives: Negatives) -> str:
    return "against the whole catalogue" if negatives == "full" else f"against {negatives} negatives"


def _mean_with_interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics["ci"][name]
    return f"{metrics[name]:.3f} [{low:.3f}, {high:.3f}]"


def _lists_note(lists: Mapping[str, Sequence[float]]) -> str:
    """Say what the best of the catalogue are like, of one method or of two."""
    told = []
    for name, values in lists.items():
        words, form = _LISTS[name]
        told.append(words.format(" and ".join(dict.fromkeys(format(value, form) for value in values))))
    return f"the best {LENGTH} of the catalogue: {', '.join(told)}"


def _assemble(caption: str, table: Sequence[str], notes: Sequence[str], *, simulated: bool) -> str:
    extra = [*notes, *([SIMULATED] if simulated else [])]
    return "\n".join([caption, "", *table, *(["", *extra] if extra else [])])
