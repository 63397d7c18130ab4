"""Make the page and the JSON of the real-input run from its per-user results and manifests."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

from xcrossrec.evaluation import Evaluation, compare, summary_table

TOYS_ORDER = (
    "popularity",
    "tfidf",
    "untrained-prompt",
    "untrained-late",
    "source-electronics",
    "source-sports",
    "mean-of-sources",
    "lora-nohead",
    "xcross-paper-nohead",
    "head-only",
    "lora",
    "xcross-pairwise",
    "xcross-paper",
)
PAIRS = (
    ("electronics", "source-electronics", "untrained-late"),
    ("sports", "source-sports", "untrained-late"),
    ("toys", "xcross-paper-nohead", "lora-nohead"),
    *(
        ("toys", form, rival)
        for form in ("xcross-paper", "xcross-pairwise")
        for rival in (
            "untrained-late",
            "tfidf",
            "source-electronics",
            "source-sports",
            "mean-of-sources",
            "head-only",
            "lora",
        )
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results = {path.stem: Evaluation.load(path) for path in sorted((arguments.runs / "results").glob("*.parquet"))}
    present = set(results)
    pairs = [
        {
            "domain": domain,
            "first": first,
            "second": second,
            **compare(results[f"{domain}-{first}"], results[f"{domain}-{second}"]),
        }
        for domain, first, second in PAIRS
        if {f"{domain}-{first}", f"{domain}-{second}"} <= present
    ]
    summaries = {key: result.summary() for key, result in results.items()}
    record = {
        "command": "lab/real_input/run.sh",
        "commit": _commit(),
        "machine": f"{platform.machine()}, {platform.python_version()}",
        "trainings": _trainings(arguments.runs),
        "results": summaries,
        "comparisons": pairs,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (arguments.out / "README.md").write_text(_page(record, summaries), encoding="utf-8")


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _trainings(runs: Path) -> dict[str, dict[str, object]]:
    found = {}
    for path in sorted([*(runs / "adapters").glob("*/xcrossrec.json"), *(runs / "models").glob("*/xcrossrec.json")]):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.name] = {key: manifest.get(key) for key in ("training", "metrics", "parameters", "init")}
    return found


def _page(record: dict, summaries: dict) -> str:
    toys = [summaries[f"toys-{name}"] for name in TOYS_ORDER if f"toys-{name}" in summaries]
    own = [
        [summary for key, summary in sorted(summaries.items()) if key.startswith(f"{domain}-")]
        for domain in ("electronics", "sports")
    ]
    lines = [
        "# X-Cross on Toys with 1,000 users (Amazon reviews, validation users)",
        "",
        f"Made by `{record['command']}` at commit {record['commit']} ({record['machine']}); seed 0. "
        "Data: ../shared/data/amazon.",
        "",
        "## Toys, 2,134 validation users",
        "",
        f"```\n{summary_table(toys)}\n```",
        "",
        "## Sources on their own domains",
        "",
        *(f"```\n{summary_table(domain)}\n```\n" for domain in own),
        "",
        "## Paired differences (first minus second), 95% bootstrap interval, sign-flip p",
        "",
        "| domain | first | second | negatives | MRR difference | 95% interval | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in record["comparisons"]:
        for kind, metrics in pair["metrics"].items():
            mrr = metrics["mrr"]
            lines.append(
                f"| {pair['domain']} | {pair['first']} | {pair['second']} | {kind} | {mrr['difference']:+.4f} "
                f"| [{mrr['ci'][0]:+.4f}, {mrr['ci'][1]:+.4f}] | {mrr['p']:.4f} |"
            )
    lines += [
        "",
        "## Trainings",
        "",
        "| model | users | epochs | best held-out loss | trained | wall s |",
        "|---|---|---|---|---|---|",
    ]
    for name, training in record["trainings"].items():
        report = training["metrics"]
        lines.append(
            f"| {name} | {report['users']} + {report['holdout_users']} held out | {report['epochs']:g} "
            f"| {report['best_loss']:.4f} | {report['trained_parameters']:,} | {report['wall_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
