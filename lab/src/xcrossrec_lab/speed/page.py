"""Write the page of the speed figures from their results alone.

    .venv/bin/python -m xcrossrec_lab.speed.page [--results lab/results/speed]

Reads every ``NAME.json`` of the folder and writes ``README.md`` beside them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xcrossrec_lab.speed.harness import RESULTS

Result = Mapping[str, Any]


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


def write_page(folder: Path) -> Path:
    """Write the page; gives it."""
    page = folder / "README.md"
    page.write_text(_page(read_results(folder)), encoding="utf-8")
    return page


def _page(results: Sequence[Result]) -> str:
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
    lines += [*map(_row, results), ""]
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


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description="Write the page of the speed figures.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    print(write_page(parser.parse_args().results))


if __name__ == "__main__":
    main()
