"""Write the page of the speed figures from their results alone.

    .venv/bin/python -m xcrossrec_lab.speed.page [--results lab/results/speed]

Reads every ``NAME.json`` of the folder, writes ``README.md``, ``ratios.svg`` and, where there are encoding results,
``encoding.svg`` beside them. A figure without a result is listed as not measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xcrossrec_lab.speed.harness import RESULTS

Result = Mapping[str, Any]

_MET, _MISSED, _NEUTRAL = "#2a7f62", "#b8442f", "#8a8f98"
_OURS_FIRST = "ours"


def read_results(folder: Path) -> list[Result]:
    """Read all results, by name; a smoke test's is refused.

    Raises:
        ValueError: a file that is no result.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        missing = {"figure", "ratio", "spread", "goal", "better", "met", "machine", "settings"} - set(result)
        if missing:
            raise ValueError(f"{path} is no result of run.py, it lacks {sorted(missing)[0]!r}: remove it")
        if result["settings"]["quick"]:
            raise ValueError(f"{path} is of a smoke test (--quick): measure it again")
        results.append(result)
    return results


def write_page(folder: Path) -> list[Path]:
    """Write the page and its plots; gives what was written."""
    results = read_results(folder)
    written = []
    if results:
        written.append(_plot_ratios(results, folder / "ratios.svg"))
    if encoding := [result for result in results if "corpora" in result["details"]]:
        written.append(_plot_encoding(encoding, folder / "encoding.svg"))
    page = folder / "README.md"
    page.write_text(_page(results, [path.name for path in written]), encoding="utf-8")
    return [page, *written]


def _page(results: Sequence[Result], plots: Sequence[str]) -> str:
    lines = [
        "# Speed figures",
        "",
        "Made by `.venv/bin/python -m xcrossrec_lab.speed.page` from the JSON files beside it, which",
        "`python -m xcrossrec_lab.speed.run --all` wrote; `--figure NAME` measures one again. Every ratio is a median",
        "of repetitions in which the rivals ran in turn with ours; in brackets the quartiles.",
        "",
    ]
    if not results:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    lines += ["| figure | ratio | goal | met | measured | ours against each rival |", "|---|---|---|---|---|---|"]
    lines += [_row(result) for result in results]
    lines += [""] + [f"![{name.removesuffix('.svg')}]({name})\n" for name in plots]
    lines += _conditions(results) + _machines(results)
    return "\n".join(lines)


def _row(result: Result) -> str:
    low, high = result["spread"]
    sign = "≥" if result["better"] == "higher" else "≤"
    machine = result["machine"]
    measured = f"{machine['started'][:10]}, {machine['commit']}{' + changes' if machine['dirty'] else ''}"
    return (
        f"| `{result['figure']}`: {result['title']} "
        f"| **{result['ratio']:.3g}** [{low:.3g}, {high:.3g}] {result['unit']} "
        f"| {sign} {result['goal']:.3g} | {'yes' if result['met'] else 'no'} | {measured} | {_rivals(result)} |"
    )


def _rivals(result: Result) -> str:
    """Other rivals: how many times faster ours is, of the corpus that decides, or what the figure offers."""
    details = result["details"]
    if "corpora" not in details:
        return ""
    parts = [part for part in details["corpora"].values() if part["ratio"] == result["ratio"]]
    faster = parts[0]["ours_times_faster_than"] if parts else {}
    return "; ".join(f"{name} {ratio:.2f}x" for name, ratio in faster.items())


def _conditions(results: Sequence[Result]) -> list[str]:
    """Side conditions, as the figures state them."""
    stated = [result for result in results if "met_also" in result["details"]]
    if not stated:
        return []
    lines = ["## Side conditions", ""]
    for result in stated:
        held = "holds" if result["met_also"] else "does not hold"
        lines.append(f"- `{result['figure']}`: {result['details']['met_also']}: {held}.{_numbers(result['details'])}")
    return [*lines, ""]


def _numbers(details: Mapping[str, Any]) -> str:
    found = []
    if "mrr" in details:
        mrr = details["mrr"]
        found.append(
            f"MRR {mrr['mrr_fast']:.4f} against {mrr['mrr_reference']:.4f} in fp32 ({mrr['relative_loss']:+.2%} lost, "
            f"{mrr['users']} users, {mrr['model']})"
        )
    if "p95_ms" in details:
        p95 = details["p95_ms"]
        of_kinds = p95.items() if isinstance(p95, Mapping) else [("", p95)]
        found.append("p95 " + ", ".join(f"{value:.1f} ms {name}".rstrip() for name, value in of_kinds))
    if "ratio_above_imports" in details:
        found.append(
            f"above the bare imports {details['ratio_above_imports']:.2f}, models only loaded "
            f"{details['ratio_loaded_only']:.2f}; copies of the base {details['base_copies']:.2f}"
        )
    for precision in ("fp32", "bf16"):
        if "whole_run" in details.get(precision, {}):
            part = details[precision]
            found.append(f"{precision}: steps {part['ratio']:.2f}, whole run {part['whole_run']:.2f}")
    return f" {'; '.join(found)}." if found else ""


def _machines(results: Sequence[Result]) -> list[str]:
    lines = ["## Machine", ""]
    seen: dict[str, list[str]] = {}
    for result in results:
        machine = result["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        described = (
            f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), {machine['memory_gb']:g} GB, "
            f"{machine['threads']} threads, Python {machine['python']}, {versions}"
        )
        load = f"`{result['figure']}` (load {machine['load_start']:g} to {machine['load_end']:g})"
        seen.setdefault(described, []).append(load)
    for described, figures in seen.items():
        lines += [f"- {described}: {', '.join(figures)}"]
    if measured := [r["details"]["throughput_gflops"] for r in results if "throughput_gflops" in r["details"]]:
        values = ", ".join(f"{name} {value:.0f}" for name, value in measured[-1].items())
        lines += ["", f"Matrix products of the encoder's shapes, GFLOP/s: {values}."]
    return [*lines, ""]


def _plot_ratios(results: Sequence[Result], path: Path) -> Path:
    """How far each figure is on the good side of its goal, on a logarithmic axis: 1 is the goal."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 0.38 * len(results) + 1.1), layout="constrained")
    for place, result in enumerate(reversed(results)):
        middle, low, high = (_progress(result, value) for value in (result["ratio"], *sorted(result["spread"])))
        colour = _MET if result["met"] else _MISSED
        axes.plot([min(low, high), max(low, high)], [place, place], color=colour, linewidth=2)
        axes.plot([middle], [place], "o", color=colour, markersize=6)
    axes.axvline(1, color=_NEUTRAL, linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.45), max(high, 2.2))
    axes.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(plt.NullFormatter())
    axes.set_yticks(range(len(results)), [result["figure"] for result in reversed(results)])
    axes.set_ylim(-0.6, len(results) - 0.4)
    axes.set_xlabel("times better than the goal (right of 1: reached; red: not met, or a side condition fails)")
    axes.spines[["top", "right"]].set_visible(False)
    return _save(plt, figure, path)


def _progress(result: Result, value: float) -> float:
    return float(value / result["goal"] if result["better"] == "higher" else result["goal"] / value)


def _plot_encoding(results: Sequence[Result], path: Path) -> Path:
    """Texts a second of ours against the plain base, per number of streams and corpus."""
    plt = _pyplot()
    corpora = list(results[0]["details"]["corpora"])
    figure, panels = plt.subplots(1, len(corpora), figsize=(7.5, 3), layout="constrained", squeeze=False)
    for axes, corpus in zip(panels[0], corpora, strict=True):
        for place, result in enumerate(results):
            speeds = result["details"]["corpora"][corpus]["texts_per_s"]
            plain = max(value for name, value in speeds.items() if name != _OURS_FIRST)
            goal = result["goal"] * plain
            axes.bar(place - 0.2, plain, 0.4, color=_NEUTRAL, label="plain base, fp32" if place == 0 else None)
            axes.bar(place + 0.2, speeds[_OURS_FIRST], 0.4, color=_MET, label="ours" if place == 0 else None)
            axes.hlines(goal, place, place + 0.4, color="black", linewidth=1.5, label="goal" if place == 0 else None)
        axes.set_xticks(range(len(results)), [result["figure"].removeprefix("encode-") for result in results])
        axes.set_title(corpus, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("texts a second")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return _save(plt, figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "xcrossrec"  # the same results give the same file
    from matplotlib import pyplot

    return pyplot


def _save(plt: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description="Write the page of the speed figures.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    for path in write_page(parser.parse_args().results):
        print(path)


if __name__ == "__main__":
    main()
