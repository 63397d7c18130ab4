"""The report's figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xcrossrec.types import Negatives
from xcrossrec_lab.report.points import Point, Points
from xcrossrec_lab.suites.cells import NO_BUDGET

LEFT_OUT = ("popularity", "itemknn", "sasrec", "unisrec")
"""Kinds far below the others, which would press the rest of a figure together; the tables have them."""

_MARKERS = "os^Dvp"

_APART = 0.015
"""How far methods stand apart at one number of users, as a share of it, so that intervals do not hide each other."""

_NAMES_A_ROW = 4
"""Of the legend below one panel of curves."""

_COLUMNS_A_PANEL = 2
"""Of the one legend below several small panels."""

_NAMES_APART = 1.25
"""Numbers of users closer than this ratio would have their names one over the other."""


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def budget_curves(points: Points, target: str, negatives: Negatives, path: Path) -> bool:
    """MRR over users with 95% intervals; methods without budget are level lines.

    A suite that names its own method and LoRAs gets two panels: those with its other forms, and all other methods.

    Returns:
        whether there is anything to draw: one number of users makes no curve.
    """
    if len(points.budgets) < 2:
        return False
    plt = _pyplot()
    panels = _panels(points, target)
    size = (7 * len(panels), 8)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel, (title, methods) in zip(axes[0], panels.items(), strict=True):
        for place, method in enumerate(methods):
            _draw_curve(points, target, negatives, method, panel, (1 + _APART) ** (place - len(methods) / 2))
        _name_users(panel, [points.users(target, budget) for budget in points.budgets])
        panel.set(title=title, xlabel=f"users of {target} to learn from")
        panel.grid(alpha=0.2)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=7, frameon=False, ncols=_NAMES_A_ROW)
    axes[0][0].set_ylabel(f"MRR, {negatives} negatives")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _panels(points: Points, target: str) -> dict[str, list[str]]:
    """The methods of each panel by its title; the suite's own method is in both."""
    drawn = _drawn(points, target)
    report = points.suite.report
    ours = report.get("ours")
    loras = [*report.get("lora", ()), *report.get("warm", ())]
    beside = {ours, *report.get("forms", ()), *loras}
    own = [name for name in drawn if name in beside]
    others = [name for name in drawn if name == ours or name not in own]
    if ours not in drawn or not set(loras) & set(drawn) or len(others) < 2:
        return {target: drawn}
    return {f"{target}: {ours}, its other forms and LoRAs": own, f"{target}: {ours} and the other methods": others}


def _draw_curve(points: Points, target: str, negatives: Negatives, method: str, axes: Any, shift: float) -> None:
    """One method's intervals, joined; a level line where it learns from nobody."""
    found = [p for b in points.budgets if (p := points.find(target, method, b)) is not None]
    color = _color(points, method)
    if found[0].budget == NO_BUDGET:
        axes.axhline(found[0].mean(negatives), linewidth=0.8, linestyle=":", label=method, color=color)
        return
    users = [points.users(target, point.budget) for point in found]
    order = np.argsort(users)
    means = np.array([point.mean(negatives) for point in found])
    errors = np.abs(np.array([point.interval(negatives) for point in found]).T - means)
    axes.errorbar(
        np.array(users)[order] * shift,
        means[order],
        errors[:, order],
        marker=_marker(points, method),
        markersize=4,
        capsize=2,
        linewidth=2.2 if method == points.suite.report.get("ours") else 1.0,
        label=method,
        color=color,
    )


def _name_users(axes: Any, users: Sequence[int]) -> None:
    """A logarithmic axis; of two numbers too close for their names the larger one has its name."""
    every = sorted(set(users))
    names = [
        "" if above is not None and above / number < _NAMES_APART else f"{number:,}"
        for number, above in zip(every, [*every[1:], None], strict=True)
    ]
    axes.set(xscale="log")
    axes.set_xticks(every, names)
    axes.minorticks_off()


def _drawn(points: Points, target: str) -> list[str]:
    """The methods of a figure: without those far below, and without the checks on titles dealt out anew."""
    methods = points.suite.methods
    return [
        name
        for name in points.methods(target)
        if methods[name].kind not in LEFT_OUT and not methods[name].settings.get("shuffle_titles")
    ]


def _color(points: Points, method: str) -> Any:
    if method == points.suite.report.get("ours"):
        return "black"
    return _pyplot().get_cmap("tab10")(list(points.suite.methods).index(method) % 10)


def _marker(points: Points, method: str) -> str:
    """With ten colours, methods of one colour differ in their marker."""
    return _MARKERS[list(points.suite.methods).index(method) // 10 % len(_MARKERS)]


def accuracy_against(points: Points, what: str, budget: int, path: Path) -> bool:
    """MRR at one budget over trained parameters (``parameters``) or processor seconds (``cpu_s``), a panel a target.

    Returns:
        whether there is anything to draw: cells of a GPU have no processor seconds.
    """
    measured = {target: _measured(points, target, what, budget) for target in points.targets}
    drawn = {target: found for target, found in measured.items() if found}
    if not drawn:
        return False
    plt = _pyplot()
    figure, panels = plt.subplots(1, len(drawn), figsize=(4.4 * len(drawn), 5), squeeze=False, layout="constrained")
    named: dict[str, Any] = {}
    for axes, (target, found) in zip(panels[0], drawn.items(), strict=True):
        for method, across, mean in found:
            (named[method],) = axes.plot(across, mean, _marker(points, method), color=_color(points, method))
        axes.set(xscale="log", title=target, xlabel=_LABELS[what], ylabel="MRR, popularity negatives")
        axes.grid(alpha=0.2)
    columns = _COLUMNS_A_PANEL * len(drawn)
    legend = {"loc": "outside lower center", "fontsize": 7, "frameon": False, "ncols": columns}
    figure.legend(named.values(), named.keys(), **legend)  # beside the points, names would lie one over the other
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _measured(points: Points, target: str, what: str, budget: int) -> list[tuple[str, float, float]]:
    """Each method's place in a panel: its name, what it took (at least 1) and its MRR."""
    found = []
    for method in _drawn(points, target):
        point = points.find(target, method, budget)
        across = None if point is None else getattr(point, what)
        if point is not None and across is not None:
            found.append((method, max(1.0, float(across)), point.mean("popularity")))
    return found


_LABELS = {"parameters": "trained parameters, head included (0 drawn at 1)", "cpu_s": "CPU seconds of the training"}


def integration_maps(points: Points, method: str, budget: int, path: Path) -> bool:
    """What each stream takes from each other, by layer: mean absolute coefficient; False where none takes anything."""
    plt = _pyplot()
    maps = {
        target: table
        for target in points.targets
        if (point := points.find(target, method, budget)) is not None and (table := _integration_map(point))
    }
    if not maps:
        return False
    figure, panels = plt.subplots(1, len(maps), figsize=(3.6 * len(maps), 3.8), squeeze=False, layout="constrained")
    for axes, (target, table) in zip(panels[0], maps.items(), strict=True):
        rows = [[layer[pair] for pair in table["pairs"]] for layer in table["layers"]]
        image = axes.imshow(np.array(rows), aspect="auto", cmap="viridis", vmin=0)
        axes.set(title=target, ylabel="layer", xticks=range(len(table["pairs"])), yticks=range(len(rows)))
        axes.set_xticklabels(table["pairs"], rotation=40, ha="right", fontsize=7)
        axes.set_yticklabels(table.get("numbers", range(1, len(rows) + 1)))
        figure.colorbar(image, ax=axes, shrink=0.7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _integration_map(point: Point) -> dict[str, Any]:
    """What was recorded, or nothing where no stream takes from another: the integrator ``none`` only averages them."""
    table: dict[str, Any] = point.records[0].get("integration_map") or {"layers": []}
    return table if any(layer[pair] for layer in table["layers"] for pair in table["pairs"]) else {}
