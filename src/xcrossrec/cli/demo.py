"""The command that shows the whole workflow with simulated users."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xcrossrec.cli.adapt import as_text
from xcrossrec.cli.console import echo, log, prepare, progress_to_stderr
from xcrossrec.cli.recommend import as_text as listed
from xcrossrec.exceptions import DataError
from xcrossrec.extras import require
from xcrossrec.replacing import check_vacant

if TYPE_CHECKING:
    from xcrossrec.adaptation.candidates import Plan
    from xcrossrec.data import Domain

MARKER = "xcrossrec-demo.json"
"""Marks a demo's folder, which the next demo may replace."""

SIMULATED = "Its customers are SIMULATED: the numbers show that the software works, and nothing about people."
MINUTES = 2.5
"""Two idle cores need about half of this time."""
_FOLDERS = ("data", "garden")


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo's is replaced.")] = Path("xcrossrec-demo"),
) -> None:
    """Run `adapt` on simulated customers. Also shows one customer's recommendations, with reasons.

    Writes the domains to OUT/data, and the results of `xcrossrec adapt` to OUT/garden.
    """
    require("train")
    claim(out)
    prepare("train")
    from xcrossrec.adaptation.candidates import Plan

    # A batch holds most of the small catalogue, so no further items are sampled; rates with the least loss on users
    # set aside.
    target = {"target_learning_rate": 8e-3, "sampled_negatives": 0}
    plan = Plan({"epochs": 2, "batch_users": 64, "learning_rate": 2e-3, "sampled_negatives": 0}, target)
    run(out, plan)


def claim(out: Path) -> None:
    """Prepare the folder: an earlier demo's content is deleted, any other is refused (DataError)."""
    if not check_vacant(out, overwrite=True) and not (out / MARKER).exists():
        raise DataError(f"{out} exists and is not an earlier demo (it has no {MARKER}): choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(json.dumps({"simulated": True}), encoding="utf-8")
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


def run(
    out: Path,
    plan: Plan,
    *,
    source_users: int = 400,
    users: int = 128,
    minutes: float = MINUTES,
    base: str | None = None,
) -> None:
    """Write a market of two established categories and a new one, adapt to it, and print the result."""
    from xcrossrec.adaptation.run import adapt
    from xcrossrec.data import write_domain
    from xcrossrec.data.market import MARKET_DOMAINS, MarketSettings, sample_market

    began = time.perf_counter()
    *established, new = MARKET_DOMAINS[:3]
    asked = 3 * users
    large, small = (sample_market(0, MarketSettings(n, asked, asked)) for n in (source_users, users))
    for domain in (*(large[name] for name in established), small[new]):
        write_domain(domain, out / "data" / domain.name)
    echo(
        f"A market with two established categories, {' and '.join(established)} ({source_users:,} customers each), and "
        f"a new one, {new} ({users:,}). {SIMULATED}\n"
    )
    sources = [out / "data" / name for name in established]
    with progress_to_stderr():
        decision = adapt(out / "data" / new, sources, out=out / new, minutes=minutes, base=base, plan=plan)
        shown = _recommendations(out / new / "model", small[new], base)
    echo(f"{shown}\n\n{as_text(decision, out / new)}")
    log.info(f"done in {time.perf_counter() - began:.0f} s")


def _recommendations(model: Path, target: Domain, base: str | None) -> str:
    """One test user's history, three recommendations with reasons, and what the user bought next."""
    from xcrossrec.recommender import Recommender

    sequences = target.sequences("test")
    ids = target.items["item_id"].to_list()
    (rows, *_), (bought, *_) = sequences.histories_and_targets()
    history = [ids[row] for row in rows]
    with Recommender.from_pretrained(model, target, base=base) as recommender:
        found = recommender.recommend(history, k=target.items.height)
        reasons = recommender.explain_many(history, [f"id:{each.item_id}" for each in found[:3]])
    rank = next((each.rank for each in found if each.item_id == ids[bought]), None)
    lines = [f"Customer {sequences.user_ids[0]} bought:"]
    lines += [f"  - {target.titles[row]}" for row in rows]
    lines += ["and is recommended:", listed(found[:3], reasons)]
    lines += [f"(bought next: {target.titles[bought]}, rank {rank} of {len(found)})"]
    return "\n".join(lines)
