"""The second half of the page: for whom, what the lists are like, what may be wrong, and how it was decided."""

from __future__ import annotations

from collections.abc import Sequence

from xcrossrec.adapt.decision import Candidate, Customer
from xcrossrec.adapt.report.markup import Content, Markup, table, tag, title_of
from xcrossrec.adapt.report.parts import Part, Shown, command, upper
from xcrossrec.adapt.report.plots import Bar, bars
from xcrossrec.adapt.report.words import duration, memory, percent, sentence

_STATUS = {"fitted": "", "skipped": "Not tried: ", "failed": "Failed: "}


def parts(shown: Shown) -> Sequence[Part]:
    """From the ladder to how it was decided."""
    return [
        ("What is known of the customers", _rungs(shown)),
        ("What else the lists are like", _beyond(shown)),
        ("Ten customers, side by side", _customers(shown)),
        ("What may be wrong with the data", _risks(shown)),
        ("Trying it on real customers (A/B test)", _trial(shown)),
        ("What was tried, and what it took", _candidates(shown)),
        ("How this was decided", _how(shown)),
    ]


def _rungs(shown: Shown) -> Sequence[Content]:
    rungs = shown.decision.rungs
    if not rungs:
        return shown.not_reached("The count of the customers")
    drawn = [Bar(upper(each.label), percent(each.share), each.share) for each in rungs]
    return [
        tag(
            "p",
            "The more is known of a customer, the better she can be served. Each bar is a share of all purchases, by "
            "what was known of the buyer before; a customer climbs with each.",
        ),
        bars(
            "rungs",
            "Purchases by what was known of the buyer",
            "; ".join(f"{b.label}: {b.value}" for b in drawn),
            drawn,
        ),
        table(
            "The same in numbers",
            ("What is known", "Customers who were there", "Purchases"),
            [(upper(each.label), f"{each.customers:,}", percent(each.share)) for each in rungs],
        ),
    ]


def _beyond(shown: Shown) -> Sequence[Content]:
    found = shown.decision.beyond or {}
    names = [name for name in dict.fromkeys((shown.chosen.name, shown.rival.name)) if name in found]
    if not names:
        return shown.not_reached("This")
    columns = [found[name] for name in names]

    def row(name: str, meaning: str, values: Sequence[str]) -> Sequence[Content]:
        return ((tag("strong", name), tag("span", meaning, class_="meaning")), *values)

    return [
        tag("p", "Being right is not all: lists may show few products only, or what everybody knows."),
        table(
            f"Lists of ten, of all customers of the report together; simple way: {shown.rival.label}",
            ("Measure", "Chosen", *("Simple way" for _ in names[1:])),
            [
                row("Coverage", "products that stand in any list", [percent(each.coverage) for each in columns]),
                row(
                    "Concentration",
                    "0: all are shown alike; 1: always the same one",
                    [f"{b.gini:.2f}" for b in columns],
                ),
                row("Novelty", "in bits; one more is half as well known", [_number(b.novelty) for b in columns]),
                row(
                    "Popularity",
                    "how much it sells; 1: like what customers buy",
                    [_number(b.popularity, "\u00d7") for b in columns],
                ),
            ],
        ),
    ]


def _number(value: float | None, unit: str = "") -> str:
    return "\u2013" if value is None else f"{value:.1f}{unit}"


def _customers(shown: Shown) -> Sequence[Content]:
    customers = shown.decision.customers
    if not customers:
        return shown.not_reached("The comparison of customers")
    return [
        tag(
            "p",
            f"Drawn by chance; each one's last purchase was hidden. Chosen: {shown.chosen.label}. Simple way, or what "
            f"you may have now: {shown.rival.label}.",
        ),
        tag("div", [_customer(number, each) for number, each in enumerate(customers, 1)], class_="customers"),
        *_truth(shown),
    ]


def _customer(number: int, customer: Customer) -> Markup:
    same = {each.title for each in customer.ours} & set(customer.now)

    def listed(title: str, reason: str | None = None) -> Markup:
        both = tag("span", " (in both)", class_="hint") if title in same else None
        return tag("li", title_of(title), both, tag("span", upper(reason), class_="meaning") if reason else None)

    ours = tag("ol", [listed(each.title, each.reason) for each in customer.ours])
    now = tag("ol", [listed(each) for each in customer.now])
    return tag(
        "article",
        tag("h3", f"Customer {number}"),
        tag("p", "Bought, oldest first:", class_="hint"),
        tag("ul", [tag("li", title_of(each)) for each in customer.history]),
        tag(
            "div",
            tag("div", tag("h4", "Chosen"), ours),
            tag("div", tag("h4", "Simple way"), now),
            class_="two",
        ),
    )


def _truth(shown: Shown) -> Sequence[Content]:
    title, found = tag("h3", "Are the reasons true?"), shown.decision.explanations
    if found is None and shown.chosen.name == "popularity":
        return [title, tag("p", "Everybody is shown what sells most, so there is no reason to check.")]
    if found is None:
        return [title, *shown.not_reached("The check of the reasons")]
    said = (
        f"For {found.checked:,} customers, what a reason names (a purchase, a source, what others bought together) was "
        f"taken away, and the score of the product had to fall as claimed. For {found.fell:,} of them every reason "
        f"held: {percent(found.share)} (95% interval {percent(found.low)} to {percent(found.high)})."
    )
    return [title, tag("p", said)]


def _risks(shown: Shown) -> Sequence[Content]:
    risks = shown.decision.risks
    if risks is None:
        return shown.not_reached("The check of the data")
    if not risks:
        return [tag("p", "Nothing was found that would spoil the result.")]
    listed = [tag("li", each.sentence, " ", tag("code", each.code)) for each in risks]
    return [tag("p", "What the check of the data found; each says what to do."), tag("ul", listed)]


def _trial(shown: Shown) -> Sequence[Content]:
    trial = shown.decision.trial
    if trial is None and shown.chosen is shown.rival:
        return [tag("p", "Nothing else was measured, so there is nothing to test it against.")]
    if trial is None:
        return shown.not_reached("The plan")
    said = tag("p", sentence(trial.sentence), class_="strong-words")
    if trial.per_arm is None:
        return [said]
    steps = (
        "Draw by chance who sees which version, and let everybody keep hers until the end.",
        f"Show one half the chosen model, the other {shown.rival.label}. If you have something running already, "
        "that is the other half.",
        "Count how many customers buy one of the ten products that they were shown. If you know your present rate, "
        "plan with that: this one is measured on purchases of the past, and a live one is mostly lower.",
        "Decide when both halves are full, not before.",
    )
    return [said, tag("ol", [tag("li", step) for step in steps])]


def _candidates(shown: Shown) -> Sequence[Content]:
    def why(each: Candidate) -> Content:
        said = sentence(_STATUS[each.status] + each.why) if each.why or each.status != "fitted" else ""
        return (shown.label(each), tag("span", said, class_="meaning") if said else None)

    return [
        table(
            "Every way in order of simplicity, its time and most memory",
            ("Way", "Time", "Memory"),
            [(why(each), _took(each), memory(each.memory_mb)) for each in shown.decision.candidates],
        )
    ]


def _took(candidate: Candidate) -> str:
    if candidate.status == "skipped":
        return f"about {duration(candidate.seconds)}" if candidate.seconds else "\u2013"
    return duration(candidate.seconds)


def _how(shown: Shown) -> Sequence[Content]:
    users, folder = shown.decision.target.users, shown.decision.target.folder or "TARGET"
    steps = (
        f"The customers were divided in three. {users.fit:,} taught the models, {users.choose:,} others chose among "
        f"them, and {users.report:,} others were kept for this page alone. So the winner's luck is not reported.",
        "Of each customer the last purchase was hidden, and every way ranked all products of the category. Where the "
        "hidden product stood gives the score.",
        "Whoever is ahead by no more than chance explains is not better. Of all that are as good as the best, the "
        "simplest was chosen.",
        "Other customers would give other numbers: of 100 intervals made as those here, 95 hold the truth.",
    )
    return [
        tag("ol", [tag("li", step) for step in steps]),
        tag("p", "To serve what was chosen, type:"),
        command(["xcrossrec", "serve", f"{shown.directory}/model", "--catalog", folder]),
        tag("p", f"Everything on this page stands in decision.json. Seed {shown.decision.seed}.", class_="hint"),
    ]
