"""A decision as adapt makes them, of a category with six candidates; every part is there."""

from __future__ import annotations

from typing import Any

from xcrossrec.adaptation.decision import (
    Beyond,
    Candidate,
    Curve,
    Customer,
    Decision,
    Explained,
    Gain,
    Helps,
    Interval,
    Listed,
    Point,
    Risk,
    Source,
    Step,
    Target,
    Trial,
    Users,
)

WICKED = "<script>alert(1)</script> & \"quoted\" 'plants'"
TITLES = (
    "Wooden raised garden bed, 120 x 60 cm, with a shelf for tools and a liner that keeps the soil in",
    "Copper watering can 1.5 l",
    "Seed tray with lid",
    "Cast iron plant stand",
    WICKED,
    "Pruning shears",
    "\u05e2\u05e6\u05d9\u05e5 \u05dc\u05d2\u05d9\u05e0\u05d4",
)


def around(mean: float, half: float) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def candidate(name: str, label: str, mrr: float | None, **more: Any) -> Candidate:
    if mrr is None:
        return Candidate(name=name, label=label, **more)
    report = {"mrr": around(mrr, 0.012), "hit@10": around(2 * mrr, 0.03), "hit@1": around(mrr / 2, 0.01)}
    less = around(mrr - 0.121, 0.006)
    return Candidate(
        name=name, label=label, status="fitted", choose=report["mrr"], report=report, minus_chosen=less, **more
    )


BOTH = ("kitchen", "camping")
LONG = "the sources merged, trained on the new category, with co-purchases"
CANDIDATES = (
    candidate("popularity", "bestsellers", 0.042, simple=True, seconds=0.2, memory_mb=310),
    candidate("centered", "the base model without any training", 0.081, simple=True, seconds=8, memory_mb=620),
    candidate("kitchen", "the model of kitchen", 0.097, simple=True, sources=("kitchen",), seconds=75, memory_mb=940),
    candidate("mean", "the mean of the sources", 0.104, simple=True, sources=BOTH, seconds=150, memory_mb=980),
    candidate("merged", LONG, 0.121, sources=BOTH, seconds=212, memory_mb=1490),
    candidate(
        "x-cross", "X-Cross", None, status="skipped", seconds=900, why="it would take 15 minutes, and 4 are left"
    ),
    candidate("lora", "a LoRA from the base", None, status="failed", seconds=3, why="the disk was full"),
)


def source(
    name: str, alone: Interval, without: Interval, helps: Helps, why: str, common: tuple[int | None, float]
) -> Source:
    """A source, with its shared users and words."""
    users, words = common
    return Source(
        name=name, folder=f"adapters/{name}", alone=alone, without=without, helps=helps, used=helps != "no", why=why,
        shared_users=users, shared_words=words,
    )  # fmt: skip


SOURCES = (
    source("kitchen", around(0.097, 0.012), around(0.0121, 0.004), "yes", "leaving it out costs .012", (212, 0.41)),
    source(
        "camping", around(0.09, 0.012), around(0.002, 0.005), "unclear", "it neither helps nor harms beyond noise",
        (1, 0.28),
    ),
    source("phones", around(0.051, 0.01), around(-0.0087, 0.0041), "no", "the mean is better without it", (None, 0.06)),
)  # fmt: skip

POINTS = tuple(
    Point(users=users, mean=mean, low=mean - 0.013, high=mean + 0.013)
    for users, mean in ((64, 0.092), (128, 0.105), (256, 0.113), (512, 0.121))
)
BAND = tuple(
    Point(users=users, mean=mean, low=mean - half, high=mean + half)
    for users, mean, half in (
        (64, 0.093, 0.006),
        (128, 0.103, 0.005),
        (256, 0.113, 0.005),
        (512, 0.121, 0.006),
        (912, 0.128, 0.009),
    )
)

RUNGS = (
    Step(rung="none", label="nothing is known: the first purchase", customers=640, share=0.4),
    Step(rung="other", label="purchases in other categories alone", customers=320, share=0.2),
    Step(rung="one", label="one purchase here", customers=400, share=0.25),
    Step(rung="several", label="several purchases here", customers=240, share=0.15),
)

RISKS = (
    Risk(code="duplicate_title", sentence="garden: 14 items share their title with another: add a brand or a size."),
    Risk(code="html_tag", sentence=f"garden: 1 titles contain remains of HTML tags, as in {WICKED}: remove the tags."),
)


def customer(number: int) -> Customer:
    picked = [TITLES[(number + step) % len(TITLES)] for step in range(7)]
    ours = tuple(
        Listed(title=t, reason=f"goes with \u201c{picked[0]}\u201d; {number + 2} customers bought both")
        for t in picked[2:5]
    )
    return Customer(history=tuple(picked[: 1 + number % 3]), ours=ours, now=(picked[4], picked[5], picked[6]))


def garden(**changes: Any) -> Decision:
    """The whole, with some parts changed."""
    users = Users(fit=512, choose=400, report=700)
    given = {
        "version": "0.9.0",
        "created": "2026-11-29T08:00:00+00:00",
        "seed": 0,
        "simulated": True,
        "target": Target(name="garden", items=1204, purchases=2980, users=users, fingerprint="f", folder="data/garden"),
        "candidates": CANDIDATES,
        "chosen": "merged",
        "simplest": "mean",
        "gain": Gain(over="mean", mean=0.017, low=0.011, high=0.023, relative=0.163, sure=True),
        "verdict": (
            "Ship the sources merged, trained on the new category, with co-purchases.",
            "On purchases of 700 customers, set aside for this report, it scores .121, better than the mean of the "
            "sources by .017 (95% interval .011 to .023).",
        ),
        "sources": SOURCES,
        "curve": Curve(
            points=POINTS,
            band=BAND,
            more_users=400,
            promise=around(0.007, 0.009),
            sentence="400 more customers are worth about +.007 (from -.002 to +.016), or nothing",
        ),
        "rungs": RUNGS,
        "beyond": {
            "merged": Beyond(coverage=0.62, gini=0.71, novelty=9.4, popularity=1.3),
            "mean": Beyond(coverage=0.71, gini=0.6, novelty=None, popularity=0.8),
        },
        "customers": tuple(map(customer, range(10))),
        "risks": RISKS,
        "trial": Trial(
            baseline=0.208,
            effect=0.034,
            per_arm=2361,
            sentence="To detect a rise from 20.8% to 24.2% in a live test, show each version to 2,361 customers.",
        ),
        "explanations": Explained(checked=100, fell=97, share=0.97, low=0.915, high=0.99),
    }
    return Decision(**{**given, **changes})
