"""The first half of the page: what to ship, how much better it is, and what more data or other sources would bring."""

from __future__ import annotations

from collections.abc import Sequence

from xcrossrec.adapt.decision import Candidate, Curve, Source
from xcrossrec.adapt.report.markup import Content, Markup, cell, table, tag
from xcrossrec.adapt.report.parts import Part, Shown, upper
from xcrossrec.adapt.report.plots import Bar, bars, curve
from xcrossrec.adapt.report.words import difference, percent, score, sentence, signed, within

_HELPS = {"yes": "helps", "no": "does not help", "unclear": "not clear"}
_ZERO = "Left of the line: the mean is better without it. Right of it: it helps."


def header(shown: Shown) -> Markup:
    """What the page is of, and the verdict."""
    decision, target = shown.decision, shown.decision.target
    simulated = tag("p", "The customers are simulated: nothing here is about people.", class_="notice")
    facts = (
        f"{target.items:,} products; {target.users.fit:,} customers to learn from, {target.purchases:,} purchases; "
        f"{target.users.choose:,} other customers to choose by, {target.users.report:,} more to report on. "
        f"Made {decision.created[:10]} with xcrossrec {decision.version}."
    )
    return tag(
        "header",
        tag("p", "Decision", class_="kicker"),
        tag("h1", f"Recommendations for \u201c{target.name}\u201d: what to ship"),
        [tag("p", each, class_="verdict") for each in decision.verdict],
        simulated if decision.simulated else None,
        _in_tens(shown),
        tag("p", facts, class_="hint"),
    )


def parts(shown: Shown) -> Sequence[Part]:
    """Rivals, more customers, sources."""
    return [
        ("How much better is it?", _rivals(shown)),
        ("What would more customers bring?", _curve(shown)),
        ("Which of your other categories help?", _sources(shown)),
    ]


def _in_tens(shown: Shown) -> Content:
    """What the first ten products hold, in words that need no metric."""
    chosen, rival = ((each.report or {}).get("hit@10") for each in (shown.chosen, shown.rival))
    if chosen is None or rival is None:
        return None
    digits = 0 if min(chosen.mean, rival.mean) >= 0.1 else 1
    said = f"Of 100 customers, {100 * chosen.mean:.{digits}f} see the product that they buy next among the first ten"
    if shown.chosen is not shown.rival:
        way = "best other simple way" if shown.chosen.simple else "best simple way"
        said += f"; with the {way} ({shown.rival.label}) {100 * rival.mean:.{digits}f} do"
    return tag("p", f"{said}.")


def _rivals(shown: Shown) -> Sequence[Content]:
    measured = [(each, each.report["mrr"]) for each in shown.fitted if each.report and "mrr" in each.report]
    if not measured:
        return shown.not_reached("The comparison")
    drawn = [
        Bar(upper(each.label), score(mrr.mean), mrr.mean, mrr.low, mrr.high, each.name == shown.decision.chosen)
        for each, mrr in measured
    ]
    users = shown.decision.target.users.report
    return [
        tag(
            "p",
            f"Each way ranked all products for {users:,} customers whose last purchase was hidden. The score is 1 if "
            "that product came first, 1/2 if second, 1/3 if third, and so on, on average (mean reciprocal rank). Lines "
            "show where the score lies at 95%; ways stand in order of simplicity.",
        ),
        bars("rivals", "Score of each way", "; ".join(f"{bar.label}: {bar.value}" for bar in drawn), drawn),
        table(
            "The same in numbers, with 95% intervals",
            ("Way", "Score", "Next purchase in the first ten", "Against the chosen"),
            [(shown.label(each), within(mrr), _tens(each), _less(each, shown)) for each, mrr in measured],
        ),
    ]


def _tens(candidate: Candidate) -> Content:
    found = (candidate.report or {}).get("hit@10")
    return cell(percent(found.mean), f"{percent(found.low)} to {percent(found.high)}") if found else "\u2013"


def _less(candidate: Candidate, shown: Shown) -> Content:
    if candidate is shown.chosen or candidate.minus_chosen is None:
        return "\u2013"
    return difference(candidate.minus_chosen)


def _curve(shown: Shown) -> Sequence[Content]:
    found = shown.decision.curve
    if found is None or not found.points or not found.band:
        return shown.not_reached("The curve")
    return [
        tag("p", sentence(found.sentence), class_="strong-words"),
        curve(
            "data",
            "Score by number of customers",
            "; ".join(f"{p.users:,}: {score(p.mean)}" for p in found.points),
            found,
        ),
        tag(
            "p",
            "Across: customers to learn from, each step twice as many. Up: the score. Dots were measured, with their "
            "intervals. The line goes on as the dots do; at 95% the truth lies in the band. What is right of the "
            "dashed line was not measured.",
            class_="hint",
        ),
        table("The same in numbers, with 95% intervals", ("Customers", "Measured", "Expected"), _by_users(found)),
    ]


def _by_users(found: Curve) -> list[Sequence[Content]]:
    """Measured and expected, where the one or the last of the other is there."""
    measured, expected = ({each.users: within(each) for each in several} for several in (found.points, found.band))
    numbers = sorted({*measured, *(each.users for each in found.band[-1:])})
    return [(f"{n:,}", measured.get(n, "not yet"), expected.get(n, "\u2013")) for n in numbers]


def _sources(shown: Shown) -> Sequence[Content]:
    sources = shown.decision.sources
    if not sources:
        return shown.not_reached("The comparison of the sources")
    drawn = [
        Bar(_used(each), signed(each.without.mean), each.without.mean, each.without.low, each.without.high)
        for each in sources
        if each.without is not None
    ]
    described = "; ".join(f"{bar.label}: {bar.value}" for bar in drawn)
    return [
        tag("p", "A source is an established category. The model of each was tried on customers of the new one."),
        tag(
            "ul",
            [tag("li", tag("strong", f"{each.name}: {_HELPS[each.helps]}. "), sentence(each.why)) for each in sources],
        ),
        tag("h3", "What leaving one out of their mean costs") if drawn else None,
        bars("sources", "What leaving a source out of the mean costs", described, drawn) if drawn else None,
        tag("p", _ZERO, class_="hint") if drawn else None,
        table(
            "The sources in numbers, with 95% intervals",
            ("Source", "Score alone", "Leaving it out costs", "In common"),
            [(_used(each), within(each.alone), _cost(each), _common(each)) for each in sources],
        ),
    ]


def _used(source: Source) -> str:
    return source.name if source.used else f"{source.name} (left out)"


def _cost(source: Source) -> Content:
    return "\u2013" if source.without is None else difference(source.without)


def _common(source: Source) -> str:
    users = None if source.shared_users is None else f"{source.shared_users:,} customers"
    words = None if source.shared_words is None else f"{percent(source.shared_words)} of the words"
    return ", ".join(each for each in (users, words) if each) or "\u2013"
