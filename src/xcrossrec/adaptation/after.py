"""The parts of the report below the verdict: rungs, lists, risks, A/B plan, customers, data curve, tested reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xcrossrec.adaptation.candidates import BOUGHT, Made, Maker
from xcrossrec.adaptation.curve import fit_curve, sizes
from xcrossrec.adaptation.customers import side_by_side
from xcrossrec.adaptation.decision import Beyond, Curve, Decision, Risk, Step
from xcrossrec.adaptation.shop import MODEL, Form, log
from xcrossrec.adaptation.trial import plan_trial
from xcrossrec.adaptation.truth import check_explanations
from xcrossrec.baselines.rivals import Popularity
from xcrossrec.data.domain import Domain
from xcrossrec.data.lint import lint
from xcrossrec.evaluation import evaluate
from xcrossrec.exceptions import StorageError, XCrossRecError
from xcrossrec.models.adapters import MANIFEST
from xcrossrec.models.base import load_base
from xcrossrec.models.tokens import tell_unread
from xcrossrec.progress import in_words
from xcrossrec.recommender import Recommender
from xcrossrec.replacing import replacing_file
from xcrossrec.scoring import KNOWN, Rung, Scorer, rung_of
from xcrossrec.types import USER

CURVE = "curve.parquet"
_EXPLAINED = 100
"""Customers whose explanations are tested."""

_ROWS_A_TEXT = 1000
"""Purchases and items that the linter checks in the time of reading one text."""


def parts_below(
    maker: Maker, made: Sequence[Made], decision: Decision, sources: Sequence[Domain], out: Path
) -> Iterator[dict[str, Any]]:
    """Give the parts, cheapest first; those that would take too long are left out with a log entry.

    Args:
        maker: has everything that was fitted.
        made: the adapters that were used.
        sources: domains of the sources that were given as domains.
        out: the folder with the model.
    """
    shop = maker.shop
    chosen, over = shop.fitted[decision.chosen], shop.fitted[decision.gain.over]
    lists = {each.form.name: beyond_of(each.report.info.lists) for each in (chosen, over)}
    yield {"rungs": rungs_of(shop.domain), "beyond": {n: each for n, each in lists.items() if each} or None}
    hits = [each.report.of("full").sort(USER)["hit@10"].to_numpy() for each in (chosen, over)]
    yield {"trial": plan_trial(hits[0], hits[1]) if chosen is not over else None}
    with ExitStack() as opened:
        for name, (seconds, make) in _parts(maker, made, decision, sources, out, opened).items():
            shop.bar.at(len(shop.found), shop.planned, name)
            if seconds > shop.clock.left():
                log.info("%s: left out, %s needed and %s left", name, in_words(seconds), in_words(shop.clock.left()))
                continue
            try:
                yield {name: make()}
            except StorageError:
                raise
            except XCrossRecError as error:
                log.warning("%s: left out, %s", name, error)


def _parts(
    maker: Maker, made: Sequence[Made], decision: Decision, sources: Sequence[Domain], out: Path, opened: ExitStack
) -> dict[str, tuple[float, Callable[[], Any]]]:
    """The slow parts by name: estimated seconds, and the function that makes the part."""
    shop, asked = maker.shop, maker.shop.asked
    chosen, over = shop.fitted[decision.chosen], shop.fitted[decision.gain.over]
    linted = [shop.domain, *sources]
    rows = sum(frame.height for each in linted for frame in (each.items, *each.interactions.values()))
    read = shop.pace.reading(shop.domain.items.height, chosen.form.streams)
    length = shop.domain.frame("test").height / max(1, shop.domain.count_users("test"))
    reasons = int(_EXPLAINED * 3 * (length + 1))

    def risks() -> Any:
        return (*language_of(shop.domain, maker.base), *risks_of(linted))

    @cache
    def recommender() -> Recommender:
        """The chosen model's; the catalogue is read once for all parts."""
        return opened.enter_context(Recommender.from_pretrained(out / MODEL, shop.domain, base=maker.base))

    def customers() -> Any:
        now: Scorer = Popularity(shop.domain.train_counts())
        if over.form.name != "popularity":
            now = maker.load(over.model)
        return side_by_side(recommender(), now, asked, seed=shop.seed)

    def explanations() -> Any:
        simplest = chosen.form.name == "popularity"
        return None if simplest else check_explanations(recommender(), asked, users=_EXPLAINED, seed=shop.seed)

    return {
        "risks": (shop.pace.reading(rows // _ROWS_A_TEXT), risks),
        "customers": (2 * read, customers),
        "curve": (_curve_s(maker, decision), lambda: curve_of(maker, made, decision)),
        "explanations": (read + shop.pace.reading(reasons, chosen.form.streams), explanations),
    }


def rungs_of(domain: Domain) -> tuple[Step, ...]:
    """How many customers of the test split stand on each rung, by what was known before each of their purchases."""
    elsewhere = domain.other_histories("test", first=True)
    moments: Counter[Rung] = Counter()
    customers: Counter[Rung] = Counter()
    sequences = domain.sequences("test", minimum=1)
    for user, rows in zip(sequences.user_ids, sequences.rows, strict=True):
        stood = Counter(rung_of(rows[:place], elsewhere.get(user, ())) for place in range(len(rows)))
        moments += stood
        customers.update(stood.keys())
    total = max(1, moments.total())
    return tuple(
        Step(rung=rung, label=known, customers=customers[rung], share=moments[rung] / total)
        for rung, known in KNOWN.items()
    )


def risks_of(domains: Sequence[Domain]) -> tuple[Risk, ...]:
    """The linter's findings in target and sources, errors first."""
    report = lint(domains)
    return tuple(
        Risk(code=found.code, sentence=f"{found.domain}{f' ({found.split})' if found.split else ''}: {found.message}.")
        for found in (*report.of("error"), *report.of("warning"))
    )


def language_of(domain: Domain, base: str) -> tuple[Risk, ...]:
    """A warning if the base hardly reads the target's texts."""
    found = tell_unread(base, load_base(base).tokenizer, domain.texts)
    return (Risk(code="unread_text", sentence=f"{domain.name}: {found}."),) if found else ()


def beyond_of(lists: Mapping[str, float] | None) -> Beyond | None:
    """Qualities of a candidate's lists (of :class:`xcrossrec.evaluation.EvaluationInfo`) other than accuracy.

    ``coverage``, ``gini`` and ``novelty`` (bits) are of :func:`xcrossrec.metrics.lists.list_metrics`; ``popularity`` is
    that of listed products over that of products bought next: more than 1 is a popularity bias. None without lists.
    """
    if not lists:
        return None
    bought = lists.get("popularity_bought")
    return Beyond(
        coverage=lists["coverage@10"],
        gini=lists["gini@10"],
        novelty=lists.get("novelty@10"),
        popularity=lists["popularity@10"] / bought if bought else None,
    )


def curve_of(maker: Maker, made: Sequence[Made], decision: Decision) -> Curve | None:
    """Measure the chosen form on growing numbers of users, each sample part of the next.

    An untrained form is measured with the co-purchase term; bestsellers with the base's. Each user's metric is kept in
    ``work/curve.parquet``, one column per number of users. Arguments are as for :func:`parts_below`.
    """
    shop = maker.shop
    chosen, most = shop.fitted[decision.chosen], len(shop.users)
    users, values = [], []

    def measure(count: int, scorer: Scorer) -> None:
        found = evaluate(scorer, shop.asked, "test", negatives=["full"], seed=shop.seed)
        users.append(count)
        values.append(found.of("full").sort(USER)["mrr"].to_numpy())

    if chosen.form.simple:
        name = "base" if chosen.form.name == "popularity" else chosen.form.name.removesuffix(BOUGHT)
        if name not in shop.fitted:
            return None
        scorer = maker.load(shop.fitted[name].model)
        for count in sizes(most):
            measure(count, maker.with_bought(scorer, shop.users.take(count, shop.seed)))
    else:
        with shop.bench(Form("curve", "", made_of=(shop.key(chosen.form),))) as place:
            for count in sizes(most)[:-1]:
                if not (place / str(count) / MANIFEST).exists():
                    maker.train_again(chosen, made, count, place / str(count))
                measure(count, maker.load(place / str(count)))
        users.append(most)
        values.append(chosen.report.of("full").sort(USER)["mrr"].to_numpy())
    with replacing_file(shop.work / CURVE) as file:
        pl.DataFrame({str(count): each for count, each in zip(users, values, strict=True)}).write_parquet(file)
    return fit_curve(users, np.stack(values), more=most, seed=shop.seed)


def _curve_s(maker: Maker, decision: Decision) -> float:
    shop = maker.shop
    chosen, counts = shop.fitted[decision.chosen], sizes(len(shop.users))
    once = shop.pace.reading(shop.domain.items.height, chosen.form.streams)
    if chosen.form.simple:
        return once + len(counts) * shop.pace.rank_s
    share = sum(counts[:-1]) / counts[-1]
    return share * chosen.seconds + len(counts) * (once + shop.pace.rank_s)
