"""Summaries and comparisons as tables for people: aligned plain text or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.metrics.ranking import METRICS

TableStyle: TypeAlias = Literal["text", "markdown"]
_SIMULATED = "simulated users: these numbers show that the software works, nothing about people"


def summary_table(summaries: Sequence[Mapping[str, Any]], *, style: TableStyle = "text") -> str:
    """Set one or more summaries out, a block of rows per kind of negatives.

    Args:
        summaries: what :meth:`Evaluation.summary` returned, of one domain and split.
        style: aligned plain text, or a Markdown table.

    Returns:
        lines without a final newline: a caption, the table, then notes and warnings.

    Raises:
        DataError: no summaries, or of more than one domain, split, seed or number of users.
        ConfigError: an unknown style.
    """
    first = _common_ground(summaries)
    kinds = list(dict.fromkeys(kind for summary in summaries for kind in summary["metrics"]))
    rows = [
        [kind, summary["scorer"], *(_mean_with_interval(summary["metrics"][kind], name) for name in METRICS)]
        for kind in kinds
        for summary in summaries
        if kind in summary["metrics"]
    ]
    caption = f"{first['domain']} {first['split']}: {first['users']} users, seed {first['seed']}"
    notes = [f"{summary['scorer']}: {text}" for summary in summaries for text in summary["warnings"]]
    notes += [_without_seen_note(summary) for summary in summaries if "without_seen" in summary]
    table = _render(["negatives", "scorer", *METRICS], rows, style, text_columns=2)
    return _assemble(f"{caption}; mean [95% interval]", table, notes, simulated=first["simulated"])


def comparison_table(comparison: Mapping[str, Any], *, style: TableStyle = "text") -> str:
    """Set a comparison out, a row per kind of negatives and metric.

    Args:
        comparison: what :func:`xcrossrec.evaluation.compare` returned.
        style: aligned plain text, or a Markdown table.

    Returns:
        lines without a final newline.

    Raises:
        ConfigError: an unknown style.
    """
    header = ["negatives", "metric", "a", "b", "a - b", "95% interval", "p"]
    rows = _comparison_rows(comparison["metrics"], "")
    rows += _comparison_rows(comparison.get("without_seen", {}), " (unseen users)")
    caption = (
        f"a = {comparison['a']}, b = {comparison['b']}; {comparison['domain']} {comparison['split']}: "
        f"{comparison['users']} users, seed {comparison['seed']}"
    )
    table = _render(header, rows, style, text_columns=2)
    return _assemble(caption, table, [], simulated=comparison["simulated"])


def _common_ground(summaries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if not summaries:
        raise DataError("a table needs at least 1 summary, got 0")
    for key in ("domain", "split", "seed", "users"):
        values = list(dict.fromkeys(summary[key] for summary in summaries))
        if len(values) > 1:
            raise DataError(f"one table shows one {key}, got {values}: make a table for each")
    return summaries[0]


def _mean_with_interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics["ci"][name]
    return f"{metrics[name]:.3f} [{low:.3f}, {high:.3f}]"


def _without_seen_note(summary: Mapping[str, Any]) -> str:
    part = summary["without_seen"]
    if not part["users"]:
        return f"{summary['scorer']}: every user was seen in a source"
    means = (f"{kind} mrr {of_kind['mrr']:.3f}" for kind, of_kind in part["metrics"].items())
    return f"{summary['scorer']}, only the {part['users']} users unseen in a source: {', '.join(means)}"


def _comparison_rows(metrics: Mapping[str, Any], suffix: str) -> list[list[str]]:
    rows = []
    for kind, of_kind in metrics.items():
        for name, found in of_kind.items():
            low, high = found["ci"]
            numbers = [f"{found['mean_a']:.3f}", f"{found['mean_b']:.3f}", f"{found['difference']:+.3f}"]
            rows.append([kind + suffix, name, *numbers, f"[{low:+.3f}, {high:+.3f}]", f"{found['p']:.4f}"])
    return rows


def _render(header: Sequence[str], rows: Sequence[Sequence[str]], style: TableStyle, *, text_columns: int) -> list[str]:
    """Align cells to their column: the first ``text_columns`` to the left, numbers to the right."""
    if style not in ("text", "markdown"):
        raise ConfigError(f"a table's style must be text or markdown, got {style!r}")
    if style == "markdown":
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]
    lines = [_align(row, widths, text_columns) for row in [header, *rows]]
    if style == "text":
        ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
        return ["  ".join(row).rstrip() for row in ruled]
    rule = ["-" * width if column < text_columns else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:])]


def _align(row: Sequence[str], widths: Sequence[int], text_columns: int) -> list[str]:
    return [
        cell.ljust(width) if column < text_columns else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _assemble(caption: str, table: Sequence[str], notes: Sequence[str], *, simulated: bool) -> str:
    extra = [*notes, *([_SIMULATED] if simulated else [])]
    return "\n".join([caption, "", *table, *(["", *extra] if extra else [])])
