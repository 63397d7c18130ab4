"""What was decided, and on what grounds: the content of ``decision.json``.

Every part below the verdict may be None or empty: the minutes were too few for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from xcrossrec.exceptions import BundleError, ConfigError, DataError
from xcrossrec.replacing import check_folder, holds, replace_text
from xcrossrec.scoring import Rung

FILE, WORK, GIVEN = "decision.json", "work", "given.json"
FORMAT = 1

Status: TypeAlias = Literal["fitted", "skipped", "failed"]
Helps: TypeAlias = Literal["yes", "no", "unclear"]


class Part(BaseModel):
    """A part of a decision: never changed, nothing unknown in it, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Part):
    """A mean over users, or of their paired differences, and its 95% interval."""

    mean: float
    low: float
    high: float

    def shown(self, sign: str = "") -> str:
        """As text; ``+`` writes the sign of what is above 0, too."""
        return f"{self.mean:{sign}.4f} [{self.low:{sign}.4f}, {self.high:{sign}.4f}]"


class Users(Part):
    """How many users the models were fitted on, one was chosen on, and the result is reported on."""

    fit: int
    choose: int
    report: int


class Target(Part):
    """The new category.

    Attributes:
        purchases: of the users that were fitted on.
        users: of each split.
        folder: where the domain lies, as it was given; empty for one in memory.
    """

    name: str
    items: int
    purchases: int
    users: Users
    fingerprint: str
    folder: str = ""


class Metric(Part):
    """What is measured: the rank of the product bought next in the whole catalogue.

    Attributes:
        name: of what is reported, the mean reciprocal rank.
        chosen_by: NDCG of the whole list, by which one is chosen: it tells more of few users.
    """

    name: Literal["mrr"] = "mrr"
    chosen_by: Literal["ndcg"] = "ndcg"
    negatives: Literal["full"] = "full"


class Candidate(Part):
    """A model that may be shipped; candidates stand in the order of simplicity.

    Attributes:
        name: short, unique, a file's name.
        label: what people call it.
        sources: names of those that it is made of.
        simple: whether nothing was trained on the target.
        status: whether it was fitted, and ``why`` not, or how.
        seconds: that it took, or would have taken where it was skipped.
        memory_mb: most memory that the process had while it was fitted.
        choose: NDCG of the whole list on the users set aside to choose; None where it was not fitted.
        report: every metric on the users set aside to report, by name.
        minus_chosen: the reported metric (MRR) less that of the chosen one, on the users of ``report``, paired.
    """

    name: str
    label: str
    sources: tuple[str, ...] = ()
    simple: bool = False
    status: Status
    why: str = ""
    seconds: float = 0.0
    memory_mb: float = 0.0
    choose: Interval | None = None
    report: dict[str, Interval] | None = None
    minus_chosen: Interval | None = None


class Gain(Interval):
    """What the chosen one is better by in the reported metric (MRR), on the users of the report, paired.

    Attributes:
        over: name of the best simple candidate; where a text was chosen, of the best of another text.
        relative: the mean as a share of the other's metric; 0 where that is 0.
        sure: whether the interval is above 0.
    """

    over: str
    relative: float
    sure: bool


class Source(Part):
    """An established category, and whether it helps.

    Attributes:
        name: of its domain.
        folder: of its adapter.
        alone: the reported metric (MRR) with it alone.
        without: what leaving it out of the mean of all costs (above 0: it helps), paired; None for an only one.
        shared_users: of the target's, how many bought there, too; None where that is not known.
        shared_words: share of the words of the target's items that its items have, from 0 to 1; None likewise.
        used: whether models were made of it.
        why: the verdict in words.
    """

    name: str
    folder: str
    alone: Interval
    without: Interval | None
    shared_users: int | None
    shared_words: float | None
    helps: Helps
    used: bool
    why: str


class Point(Interval):
    """The reported metric with so many users to fit on."""

    users: int


class Curve(Part):
    """What more users are worth.

    Attributes:
        points: measured.
        band: the fit through them with its 95% band, on so many users each, up to those with ``more_users``.
        more_users: beside those at hand.
        promise: what these would add to the reported metric.
        sentence: the promise in words.
    """

    points: tuple[Point, ...]
    band: tuple[Point, ...]
    more_users: int
    promise: Interval
    sentence: str


class Step(Part):
    """A rung of the ladder: what is known of a customer, and how many customers stand there."""

    rung: Rung
    label: str
    customers: int
    share: float


class Beyond(Part):
    """What the lists of ten are like beside being right (:func:`xcrossrec.adaptation.after.beyond_of`)."""

    coverage: float
    gini: float
    novelty: float | None = None
    popularity: float | None = None


class Listed(Part):
    """A product that is recommended, and why."""

    title: str
    reason: str


class Customer(Part):
    """One customer of the report: titles of what she bought, what she would be shown, and what she is shown now."""

    history: tuple[str, ...]
    ours: tuple[Listed, ...]
    now: tuple[str, ...]


class Risk(Part):
    """Something that may spoil the result."""

    code: str
    sentence: str


class Trial(Part):
    """A plan of an A/B test: customers in each arm for a change of ``baseline`` by ``effect``; None without a gain."""

    baseline: float
    effect: float
    per_arm: int | None
    sentence: str


class Explained(Part):
    """Of ``checked`` customers for how many the score ``fell`` as the reasons claim; the share's 95% interval."""

    checked: int
    fell: int
    share: float
    low: float
    high: float


class Decision(Part):
    """Everything; see the classes of its parts.

    Attributes:
        version: of xcrossrec.
        created: ISO 8601, UTC.
        simulated: whether the customers are.
        chosen: name of the candidate that ``model/`` is.
        simplest: name of the best simple candidate, on the users set aside to choose.
        verdict: two sentences.
        beyond: of the chosen one and of the best simple one, by name.
    """

    format: Literal[1] = 1
    version: str
    created: str
    seed: int
    simulated: bool = False
    target: Target
    metric: Metric = Metric()
    candidates: tuple[Candidate, ...]
    chosen: str
    simplest: str
    gain: Gain
    verdict: tuple[str, str]
    sources: tuple[Source, ...] = ()
    curve: Curve | None = None
    rungs: tuple[Step, ...] | None = None
    beyond: dict[str, Beyond] | None = None
    customers: tuple[Customer, ...] | None = None
    risks: tuple[Risk, ...] | None = None
    trial: Trial | None = None
    explanations: Explained | None = None

    @model_validator(mode="after")
    def _names_are_candidates(self) -> Self:
        fitted = {each.name for each in self.candidates if each.status == "fitted"}
        if lost := {self.chosen, self.simplest, self.gain.over, *(self.beyond or ())} - fitted:
            raise ValueError(f"{sorted(lost)[0]!r} is no fitted candidate")
        return self

    def candidate(self, name: str) -> Candidate:
        """The candidate of a name."""
        return next(each for each in self.candidates if each.name == name)

    def write(self, directory: Path | str) -> None:
        """Write ``decision.json`` into a folder, in one step (StorageError: the disk refuses)."""
        replace_text(Path(directory) / FILE, self.model_dump_json(indent=1))

    @classmethod
    def read(cls, directory: Path | str) -> Self:
        """Read what :meth:`write` wrote (BundleError: no such file, or one that is damaged or of another release)."""
        path = Path(directory) / FILE
        if not path.is_file():
            raise BundleError(f"{directory} has no {FILE}: make one with  xcrossrec adapt TARGET --out {directory}")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "everything"
            raise BundleError(
                f"{path} cannot be used, {place}: {first['msg']}; this release reads format {FORMAT}: run "
                "xcrossrec adapt again"
            ) from error


def check_run(out: Path, minutes: float) -> None:
    """Refuse no minutes (:class:`ConfigError`), and a folder that adapt did not make (:class:`DataError`)."""
    if not minutes > 0:
        raise ConfigError(f"minutes are {minutes}: give more than 0")
    check_folder(out)
    strange = holds(out) - {WORK}
    if strange and not (out / WORK / GIVEN).exists() and not (out / FILE).exists():
        raise DataError(f"{out} exists, but adapt did not write it: choose another --out")
