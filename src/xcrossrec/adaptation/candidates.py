"""The candidates: what sells most, the texts of the base and of sources, and what is trained on the target."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xcrossrec.adaptation.shop import Fitted, Form, Shop, Timed, log
from xcrossrec.baselines.rivals import Popularity
from xcrossrec.config import Integration, TrainingConfig, rival_config, source_config, target_config
from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.engine import Engine, Local, Work
from xcrossrec.exceptions import BundleError, OtherRunError, XCrossRecError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_WEIGHTS, MANIFEST
from xcrossrec.models.base import load_base
from xcrossrec.models.day_one import DayOne
from xcrossrec.models.dual import DualScorer, vector_dim
from xcrossrec.models.files import file_digest
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import Purchases, with_counts
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.models.source import SourceEncoder
from xcrossrec.progress import in_words
from xcrossrec.training.day_one import LEAST_SHARED, Weights, customers_of_both, popularity_of, with_day_one
from xcrossrec.training.loop import uses_bfloat16
from xcrossrec.training.places import RUN_FILE, work_folder
from xcrossrec.training.purchases import counted, with_purchases
from xcrossrec.training.source import domain_record, reading, source_users, train_source, with_head, write
from xcrossrec.training.target import build_target_model, train_target
from xcrossrec.types import ITEM, EncodingPrecision

_TIMED = 256
"""Texts whose reading is timed once the model is warm; a quarter as many users are timed."""

BOUGHT = "-bought"
"""Suffix of the names of text candidates with the co-purchase term."""

LEAST_TRAINED = 32
"""Fewest users to train on the target: with fewer, none could be set aside for early stopping."""


@dataclass(frozen=True)
class Plan:
    """Settings of the trainings that differ from the defaults.

    Attributes:
        source: settings of sources (:func:`xcrossrec.config.source_config`).
        target: of integrations (:func:`xcrossrec.config.target_config`).
        rival: of LoRA on the target (:func:`xcrossrec.config.rival_config`).
        source_users: most users of a source to train on.
    """

    source: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    rival: Mapping[str, Any] = field(default_factory=dict)
    source_users: int = 4096


@dataclass(frozen=True)
class Made:
    """A source's adapter: its name, its folder, and a digest of its weights."""

    name: str
    folder: Path
    digest: str


def unchanged(made: Sequence[Made], out: Path | None = None) -> None:
    """Raise BundleError if a source's adapter was replaced meanwhile; ``out``, made of it, is removed."""
    for each in made:
        if not (weights := each.folder / ADAPTER_WEIGHTS).exists() or file_digest(weights) != each.digest:
            shutil.rmtree(out) if out else None
            raise BundleError(f"source {each.name} was replaced while adapt was at work: run adapt again")


POPULARITY = Form("popularity", "bestsellers", level=0)
BASE = Form("base", "the untrained base model")


def alone(source: Made) -> Form:
    """The text of a source alone."""
    return _of(f"source-{source.name}", f"{source.name} alone", [source])


def mean_of(sources: Sequence[Made]) -> Form:
    """The mean of sources, nothing trained."""
    return _of("mean", "the mean of the sources", sources)


def bought(form: Form) -> Form:
    """A text candidate with the co-purchase term."""
    return replace(form, name=form.name + BOUGHT, label=f"{form.label}, with co-purchases")


def _of(name: str, label: str, sources: Sequence[Made], level: int = 1) -> Form:
    return Form(name, label, tuple(s.name for s in sources), level, tuple(s.digest for s in sources))


@dataclass(frozen=True)
class Trainer:
    """Trains on the target, in any process; an interrupted training is continued."""

    domain: Domain
    base: str
    plan: Plan
    seed: int

    def target(self, sources: Sequence[Made], integration: Integration, out: Path, users: int | None = None) -> None:
        """Integrate sources, on all users or so many."""
        folders = [source.folder.absolute() for source in sources]
        train = partial(train_target, self.domain, folders, out, integration=integration)
        self._train(train, target_config, self.plan.target, sources, out, users)

    def lora(self, source: Sequence[Made], out: Path, users: int | None = None) -> None:
        """Train a LoRA, from the base or from one source."""
        init = source[0].folder.absolute() if source else None
        train = partial(train_source, self.domain, out, init=init, purchases=True)
        self._train(train, rival_config, self.plan.rival, source, out, users)

    def _train(
        self, train: Any, config_of: Any, plan: Mapping[str, Any], made: Sequence[Made], out: Path, users: int | None
    ) -> None:
        config = config_of(users=users or len(self.domain.sequences("train")), **{"seed": self.seed, **plan})
        _from_where_it_was(out, partial(train, config=config, base=self.base, budget=users))
        unchanged(made, out)


@dataclass(frozen=True)
class Training:
    """A candidate that is trained on the target.

    Attributes:
        train: writes it into a folder, trained on a number of users or (None) on all.
    """

    form: Form
    train: Callable[..., None]


class Maker:
    """Makes the models of candidates, and keeps them in the shop.

    Args:
        base: folder or name of the base.
        engine: where trainings are done that do not depend on each other.
    """

    def __init__(self, shop: Shop, base: str, plan: Plan, engine: Engine | None = None) -> None:
        self.shop, self.base, self.plan, self.engine = shop, base, plan, engine or Local()
        self.domain, self.seed = shop.domain, shop.seed
        self.trainer = Trainer(shop.domain, base, plan, shop.seed)
        self._ahead: dict[str, tuple[float, float]] = {}  # by candidate: seconds, and megabytes of its process
        self.ids = self.domain.items[ITEM].to_list()

    def popularity(self) -> None:
        """Fit bestsellers: recent ones if there are times and they predict better."""

        def fit() -> None:
            timed = Timed()
            lately, half_life = popularity_of(self.domain, self.shop.buyers)
            order = np.unique(lately["lately"].to_numpy(), return_inverse=True)[1].astype(np.int64)

            def save(folder: Path) -> None:
                model = with_counts(_untrained(self.domain, self.base), counted(self.domain, self.shop.buyers), {})
                only = {"text": 0.0, "popularity": 1.0}
                weights: Weights = {"none": {"popularity": 1.0}, "one": only, "several": only}
                new = DayOne(vector_dim(model), lately, weights, half_life_days=half_life)
                self._save(kind_of(model).assemble([*model, new]), POPULARITY, (), folder)

            self.shop.keep(POPULARITY, Popularity(order), save, timed)

        self.shop.attempt([POPULARITY], lambda: 0.0, fit)

    def text(self, form: Form, sources: Sequence[Made] = ()) -> ModelScorer | None:
        """Fit the text of the base, of a source or of the mean of several, without and with the co-purchase term.

        Gives its scorer; None if both candidates were kept before, or could not be fitted.
        """
        made: list[ModelScorer] = []

        def fit() -> None:
            timed = Timed()
            scorer = self.scorer(sources)
            made.append(scorer)
            plain = with_counts(scorer.model, counted(self.domain, self.shop.buyers), {})
            plain = with_day_one(plain, self.domain, self.shop.buyers, seed=self.seed, scorer=scorer)
            self._keep(form, scorer, plain, sources, timed)
            known = self.with_bought(scorer, self.shop.buyers).model  # whose first day is the same
            model = kind_of(known).assemble([*known, *(each for each in plain if isinstance(each, DayOne))])
            self._keep(bought(form), scorer, model, sources, timed)
            self.shop.pace.elsewhere = scorer.read_elsewhere

        self.shop.attempt([form, bought(form)], self.text_s, fit)
        return made[0] if made else None

    def text_s(self) -> float:
        """Estimate the seconds for the text of the base or a source; measures the speed first if it is unknown."""
        pace = self.shop.pace
        if pace.text_s is None:
            self._measure(model := text_model(self.domain, (), self.base))
            pace.rank_s += self._scanning_s(model)
        if pace.elsewhere is None:
            rows, texts = customers_of_both(self.domain, self.shop.buyers, self.seed)
            pace.elsewhere = len({text for each in texts for text in each}) if len(rows) >= LEAST_SHARED else 0
        return pace.reading(self.domain.items.height + pace.elsewhere) + 2 * pace.rank_s

    def scorer(self, sources: Sequence[Made] = ()) -> ModelScorer:
        """Read the catalogue by the base, a source, or the mean of several, and measure the speed."""
        scorer = read_text(self.domain, sources, self.base)
        unchanged(sources)
        self._measure(scorer.model)
        return scorer

    def again(self, sources: Sequence[Made] = ()) -> ModelScorer | None:
        """Read the catalogue again to judge sources; None if the time is too short."""
        if (needed := self.shop.pace.reading(self.domain.items.height)) <= self.shop.clock.left():
            return self.scorer(sources)
        log.info("sources are not judged, so all are used: to read the catalogue again takes %s", in_words(needed))
        return None

    def _measure(self, model: Model) -> None:
        some = self.domain.texts[:: -(-len(self.domain.texts) // _TIMED)]
        began = time.monotonic()
        kind_of(model).encode_items(model, some)
        self.shop.pace.text_s = (time.monotonic() - began) / len(some)

    def _scanning_s(self, model: Model) -> float:
        """Estimate the seconds to score the catalogue for all users that are ranked."""
        asked = (self.shop.asked.sequences(split) for split in ("validation", "test"))
        histories = [history for each in asked for history in each.histories_and_targets()[0]]
        some = histories[:: -(-len(histories) // (_TIMED // 4))]
        scorer = DualScorer(model, (), vectors=torch.zeros(self.domain.items.height, vector_dim(model)))
        scorer.slots, began = scorer.vectors, time.monotonic()
        scorer.score(some)
        return (time.monotonic() - began) * len(histories) / len(some)

    def with_bought(self, scorer: ModelScorer, users: Sequences) -> ModelScorer:
        """Add the co-purchase term of these users to a text's scorer, without reading the catalogue again."""
        assert isinstance(scorer.inner, DualScorer)
        vectors = scorer.inner.vectors
        model, _ = with_purchases(scorer.model, self.domain, users, seed=self.seed, vectors=vectors)
        return scorer.knowing(model, self.ids)

    def trainings(self, sources: Sequence[Made], best: Made | None) -> list[Training]:
        """The trainings on the target, in order; ``sources`` are those that help, ``best`` the best of them."""
        alone = Training(Form("lora", "a LoRA on the target alone", level=2), partial(self.trainer.lora, []))
        several = len(sources) > 1
        of = partial(_of, sources=sources)
        merged = of("merged", "the sources merged and trained on the target", level=2)
        found = [Training(merged, partial(self.trainer.target, sources, Integration()))] if several else []
        found.append(alone)
        if best is not None:
            form = _of("lora-from-source", f"a LoRA on the target that starts from {best.name}", [best], 2)
            found.append(Training(form, partial(self.trainer.lora, [best])))
        if several:
            train = partial(self.trainer.target, sources, Integration("xcross"))
            found.append(Training(of("xcross", "X-Cross", level=3), train))
        return found

    def train_ahead(self, trainings: Sequence[Training]) -> None:
        """Run the trainings that the minutes allow at the same time in an engine's workers.

        A training that fails there is tried again in this process, which reports the reason.
        """
        if self.engine.here:
            return
        left = self.shop.clock.left()
        guess = self.shop.pace.training
        expected = {each.form.name: self._expected(each) for each in trainings}
        places = {
            each.form.name: partial(each.train, self.shop.place(each.form).absolute(), None)
            for each in trainings
            if self.shop.kept(each.form) is None and expected[each.form.name] <= left
        }
        for name, told in self.engine.results(_trainings, places):
            self.shop.bar.at(len(self.shop.found) + len(self._ahead), self.shop.planned, f"{name} is trained")
            if told:
                seconds, memory = json.loads(told)
                self._ahead[name] = seconds, memory
                self.shop.pace.training = guess * seconds / expected[name] if expected[name] else guess

    def train_again(self, chosen: Fitted, sources: Sequence[Made], users: int, out: Path) -> None:
        """Train a trained candidate again, on so many users, into a folder."""
        own = [source for source in sources if source.name in chosen.form.sources]
        known = {each.form.name: each for each in self.trainings(own, own[0] if own else None)}
        known[chosen.form.name].train(out, users)

    def load(self, folder: Path) -> ModelScorer:
        """Read the catalogue by a fitted candidate."""
        model = bundle.load(folder, base=self.base)
        return ModelScorer(model, self.domain.texts, name="fitted", precision=reads_in(), ids=self.ids)

    def _expected(self, training: Training) -> float:
        """Estimate the seconds of a training: each text is read and learned from once per epoch."""
        drawn = 32 * -(-len(self.shop.users) // 32)
        texts = (self.domain.frame("train").height + drawn) * target_config(**self.plan.target).epochs
        return self.shop.pace.reading(texts, training.form.streams) * self.shop.pace.training

    def fit(self, training: Training) -> None:
        """Fit a candidate that is trained on the target."""
        form, pace, texts = training.form, self.shop.pace, self.domain.items.height
        there = form.name in self._ahead
        expected = 0.0 if there else self._expected(training)
        after = pace.reading(2 * (texts + (pace.elsewhere or 0)), training.form.streams) + pace.rank_s

        def fit() -> None:
            timed, started = Timed(*self._ahead.get(form.name, ())), Timed()
            with self.shop.bench(form) as place:
                if not (place / MANIFEST).exists():
                    training.train(place, None)
                    if expected:
                        pace.training *= started.lap()[0] / expected
                scorer = self.load(place)
                self.shop.keep(form, scorer, partial(shutil.copytree, place), timed)

        self.shop.attempt([form], lambda: expected + after, fit)

    def _keep(self, form: Form, scorer: ModelScorer, model: Model, sources: Sequence[Made], timed: Timed) -> None:
        folders = [source.folder for source in sources]
        self.shop.keep(form, scorer.knowing(model, self.ids), partial(self._save, model, form, folders), timed)

    def _save(self, model: Model, form: Form, folders: Sequence[Path], out: Path) -> None:
        seen = frozenset().union(*(source_users(folder) for folder in folders))
        write(model, out, {"kind": form.name, "domain": domain_record(self.domain)}, seen, overwrite=True)


def read_text(domain: Domain, sources: Sequence[Made], base: str) -> ModelScorer:
    """Read a domain's catalogue, centered and without purchases, by the mean of ``sources``, or by the ``base`` (a
    folder or name) if there are none."""
    return ModelScorer(text_model(domain, sources, base), domain.texts, name="text", precision=reads_in())


def text_model(domain: Domain, sources: Sequence[Made], base: str) -> Model:
    """The model of :func:`read_text`, before it has read the catalogue."""
    folders = [source.folder for source in sources]
    if not folders:
        model = _untrained(domain, base)
    elif len(folders) == 1:
        model = bundle.load(folders[0], base=base)
    else:
        model = build_target_model(folders, Integration(), base=base)
    model = with_head(reading(model, domain, folders), domain, source_config(projection_rank=0))
    return kind_of(model).assemble([each for each in model if not isinstance(each, (Purchases, DayOne))])


def reads_in() -> EncodingPrecision:
    """The precision that the catalogue is read in: bf16 where the processor does it natively, as in training."""
    return "bf16" if uses_bfloat16(source_config()) else "fp32"


def _untrained(domain: Domain, base: str) -> Model:
    return reading(build_model(SourceEncoder(load_base(base))), domain, [])


def train_missing(domain: Domain, out: Path, base: str, config: TrainingConfig, budget: int | None) -> None:
    """Train a source's adapter; an interrupted training is continued."""
    _from_where_it_was(out, partial(train_source, domain, out, config=config, base=base, budget=budget))


def _from_where_it_was(out: Path, train: Callable[..., object]) -> None:
    """Continue an interrupted training, or restart if its settings or data differ."""
    place = work_folder(out)
    train = partial(train, overwrite=True, show_progress=False)
    try:
        train(resume=(place / RUN_FILE).exists())
    except OtherRunError:
        shutil.rmtree(place)
        train()
    shutil.rmtree(place, ignore_errors=True)


def _trainings() -> Work:
    """Runs a training in a worker; gives its seconds and megabytes, or nothing if it failed."""

    def work(train: Callable[[], None]) -> bytes:
        timed = Timed()
        with suppress(XCrossRecError, RuntimeError, MemoryError):
            train()
            return json.dumps(timed.lap()).encode()
        return b""

    return work
