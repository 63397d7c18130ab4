"""Where candidates are fitted, one after another within the minutes, and kept with their scores once complete."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from xcrossrec._version import __version__
from xcrossrec.adaptation.decision import Status
from xcrossrec.data.domain import Domain
from xcrossrec.evaluation import Evaluation, evaluate
from xcrossrec.exceptions import StorageError, XCrossRecError
from xcrossrec.metrics.ranking import ndcg_at_k
from xcrossrec.progress import Stage, in_words
from xcrossrec.replacing import replacing_folder
from xcrossrec.scoring import Scorer
from xcrossrec.system import most_memory_mb
from xcrossrec.types import USER, Split

log = logging.getLogger("xcrossrec.adaptation")

MOST_CHOOSING, MOST_REPORTING = 2000, 5000
"""Users that are ranked to choose, and to report, at most; drawn by seed."""

MODEL = "model"
_CHOOSE, _REPORT, _ABOUT = "choose.parquet", "report.parquet", "about.json"


@dataclass(frozen=True)
class Form:
    """What a candidate is; see :class:`xcrossrec.adaptation.decision.Candidate`.

    Attributes:
        level: of cost: 0 has no language model, 1 is not trained on the target, 2 is, 3 reads a text several times.
        made_of: all that it depends on beside the target and the seed; a kept one is only used where this is the same.
    """

    name: str
    label: str
    sources: tuple[str, ...] = ()
    level: int = 1
    made_of: tuple[str, ...] = ()

    @property
    def simple(self) -> bool:
        """Whether nothing was trained on the target."""
        return self.level < 2

    @property
    def streams(self) -> int:
        """Language models that read each text."""
        return len(self.sources) if self.level == 3 else 1


@dataclass(frozen=True)
class Fitted:
    """A fitted candidate: its model's folder, its scores, and the time and memory that fitting took."""

    form: Form
    model: Path
    choose: Evaluation
    report: Evaluation
    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Missing:
    """A candidate that was not fitted."""

    form: Form
    status: Status
    why: str
    seconds: float = 0.0


@dataclass
class Clock:
    """Counts down the minutes."""

    minutes: float
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.minutes * 60 - (time.monotonic() - self.began))


@dataclass
class Pace:
    """The measured speed of this machine on this target; None before it was measured.

    Attributes:
        text_s: to read a text of the catalogue.
        elsewhere: texts of other categories that each model reads too, for customers with few purchases here.
        rank_s: to rank all users by vectors that are already computed.
        training: cost of training on a text, in readings of it; 2.5 is a guess until something was trained.
    """

    text_s: float | None = None
    elsewhere: int | None = None
    rank_s: float = 0.0
    training: float = 2.5

    def reading(self, texts: int, streams: int = 1) -> float:
        """Seconds to read so many texts, by so many language models."""
        return (self.text_s or 0.0) * texts * streams


class Shop:
    """Fits candidates of the target and keeps them in a folder.

    Args:
        seed: of users and candidates.
        bar: shows progress.
        facts: what every candidate depends on besides the target: settings, the base.
    """

    def __init__(
        self, domain: Domain, work: Path, *, seed: int, clock: Clock, bar: Stage, facts: Mapping[str, Any]
    ) -> None:
        self.domain, self.work, self.seed, self.clock, self.bar = domain, work, seed, clock, bar
        self.users, self.buyers = domain.sequences("train"), domain.sequences("train", minimum=1)
        self.pace = Pace()
        self.found: dict[str, Fitted | Missing] = {}
        self.planned = 1
        self._facts = {**facts, "fingerprint": domain.fingerprint, "seed": seed, "version": __version__}
        asked = domain.with_users("validation", MOST_CHOOSING, seed)
        self.asked = asked.with_users("test", MOST_REPORTING, seed)

    @property
    def fitted(self) -> dict[str, Fitted]:
        """All fitted candidates, simplest first."""
        return {name: each for name, each in self.found.items() if isinstance(each, Fitted)}

    def choosing(self) -> dict[str, Float64[np.ndarray, " user"]]:
        """NDCG of the whole list by fitted candidate, of the users to choose (validation)."""
        return {name: whole_ndcg(each.choose) for name, each in self.fitted.items()}

    def reporting(self) -> dict[str, Float64[np.ndarray, " user"]]:
        """Reciprocal ranks by fitted candidate, of the users to report (test)."""
        return {name: each.report.of("full").sort(USER)["mrr"].to_numpy() for name, each in self.fitted.items()}

    def skip(self, form: Form, why: str, seconds: float = 0.0) -> None:
        """Note that a candidate is not fitted, and why."""
        self.found[form.name] = Missing(form, "skipped", why, seconds)
        log.info("%s: skipped, %s", form.label, why)

    def attempt(self, forms: Sequence[Form], seconds: Callable[[], float], fit: Callable[[], None]) -> None:
        """Fit candidates that belong together, unless they were kept before or would take too long.

        ``forms`` are in order of simplicity; ``seconds`` estimates the time, and is called only if one of them has to
        be fitted; ``fit`` calls :meth:`keep` for each of them.
        """
        self.bar.at(len(self.found), self.planned, forms[0].label)
        kept = [self.kept(form) for form in forms]
        if None not in kept or self._fit(forms, seconds, fit):
            self.found |= {form.name: each for form, each in zip(forms, kept, strict=True) if each is not None}

    def _fit(self, forms: Sequence[Form], seconds: Callable[[], float], fit: Callable[[], None]) -> bool:
        """Fit; gives False if the time is too short or fitting failed."""
        try:
            if (needed := seconds()) > (left := self.clock.left()):
                why = f"it would take about {in_words(needed)}, with {in_words(left)} left: give more --minutes"
                for form in forms:
                    self.skip(form, why, needed)
                return False
            fit()
        except StorageError:
            raise
        except (XCrossRecError, RuntimeError, MemoryError) as error:
            log.warning("%s: failed, %s", forms[0].label, error)
            why = " ".join(str(error).split()) or type(error).__name__
            self.found |= {form.name: Missing(form, "failed", why) for form in forms if form.name not in self.found}
            return False
        return True

    def keep(self, form: Form, scorer: Scorer, save: Callable[[Path], object], timed: Timed) -> None:
        """Rank the users by a candidate, whose scorer is bound to the target's catalogue, and store it.

        ``save`` writes its model to a folder; ``timed`` was started when fitting began.
        """
        began = time.monotonic()
        asked: tuple[Split, Split] = ("validation", "test")
        choose, report = (evaluate(scorer, self.asked, s, negatives=["full"], seed=self.seed) for s in asked)
        self.pace.rank_s = time.monotonic() - began
        seconds, memory = timed.lap()
        with replacing_folder(self.work / form.name) as folder:
            save(folder / MODEL)
            choose.save(folder / _CHOOSE)
            report.save(folder / _REPORT)
            about = {"key": self.key(form), "seconds": seconds, "memory_mb": memory}
            (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        model = self.work / form.name / MODEL
        self.found[form.name] = Fitted(form, model, choose, report, seconds, memory)
        log.info("%s: %s, %.0f MB", form.label, in_words(seconds), memory)

    def key(self, form: Form) -> str:
        """A digest of all that a candidate depends on."""
        stated = json.dumps([form.name, form.made_of, self._facts], sort_keys=True, default=str)
        return hashlib.sha256(stated.encode()).hexdigest()

    def kept(self, form: Form) -> Fitted | None:
        """A candidate that was fitted before; None where there is none."""
        folder = self.work / form.name
        with suppress(OSError, ValueError, KeyError, XCrossRecError):
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            if about["key"] == self.key(form):
                choose, report = Evaluation.load(folder / _CHOOSE), Evaluation.load(folder / _REPORT)
                return Fitted(form, folder / MODEL, choose, report, about["seconds"], about["memory_mb"])
        return None

    def place(self, form: Form) -> Path:
        """Where a candidate is trained."""
        return self.work / "training" / f"{form.name}-{self.key(form)[:8]}"

    @contextmanager
    def bench(self, form: Form) -> Iterator[Path]:
        """Yield the folder of a training, where an interrupted one continues; removed when the block succeeds."""
        place = self.place(form)
        yield place
        for each in place.parent.glob(f"{place.name}*"):
            shutil.rmtree(each, ignore_errors=True)


def whole_ndcg(found: Evaluation) -> Float64[np.ndarray, " user"]:
    """Each user's NDCG without a cutoff, 1 / log2(1 + rank)."""
    rank = found.of("full").sort(USER)["rank"].to_numpy()
    return ndcg_at_k(rank, int(rank.max(initial=1)))


class Timed:
    """Measures seconds and peak memory since its creation, or since the last lap.

    ``seconds`` and ``memory`` (megabytes) that another process used count towards the first lap.
    """

    def __init__(self, seconds: float = 0.0, memory: float = 0.0) -> None:
        self._began, self._memory = time.monotonic(), 0.0
        self.lap()
        self._began, self._memory = self._began - seconds, memory

    def lap(self) -> tuple[float, float]:
        """Seconds, and megabytes of the process; the next lap begins."""
        now, memory = time.monotonic(), max(most_memory_mb(), self._memory)
        seconds, self._began, self._memory = now - self._began, now, 0.0
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return seconds, memory
