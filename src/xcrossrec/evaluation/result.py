"""Per-user results on disk and in memory, and their summary.

One Parquet file holds both: the rows, and under the key ``xcrossrec`` of its metadata a JSON object that
says what was measured; under ``xcrossrec_sha256`` a digest of the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.arguments import checked
from xcrossrec.data.store import read_parquet, readable
from xcrossrec.exceptions import DataError
from xcrossrec.metrics.ranking import METRICS
from xcrossrec.metrics.significance import mean_interval
from xcrossrec.replacing import replacing_file
from xcrossrec.types import NEGATIVES, USER, Negatives

KIND = "negatives"
SEEN = "seen_in_source"
LEAK_HIT_AT_1 = 0.7  # nothing honest gets there on sampled candidates

RESULT_SCHEMA: Mapping[str, type[pl.DataType]] = {
    USER: pl.String,
    KIND: pl.String,
    "candidates": pl.Int64,
    "rank": pl.Int64,
    **dict.fromkeys(METRICS, pl.Float64),
    SEEN: pl.Boolean,
}
_FORMAT = 1
_KEY, _DIGEST = "xcrossrec", "xcrossrec_sha256"


@dataclass(frozen=True)
class EvaluationInfo:
    """What was measured, on what, by which version of xcrossrec.

    ``split`` says whose users were ranked, ``fingerprint`` is the domain's, ``seed`` that of the candidates, ``wall_s``
    the seconds spent scoring and ranking. ``lists`` is what the best of the whole catalogue are like, of all users
    together (:func:`xcrossrec.metrics.lists.list_metrics`); None where it was not ranked. ``rungs`` counts the
    users by what is known of them (:func:`xcrossrec.scoring.rung_of`); None for a scorer to which that makes no
    difference, and ``by_rung`` has the metrics of each rung's users, where there are several rungs. ``train_after`` is
    the share of the train purchases that were made after half of the targets; None where there are no times.
    ``alarms`` say what else the numbers depend on.
    """

    scorer: str
    domain: str
    fingerprint: str
    split: str
    seed: int
    version: str
    wall_s: float
    simulated: bool = False
    lists: Mapping[str, float] | None = None
    rungs: Mapping[str, int] | None = None
    by_rung: Mapping[str, Mapping[str, Any]] | None = None
    train_after: float | None = None
    alarms: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One scorer's per-user results.

    Attributes:
        frame: a row per user and kind of negatives: ``user_id``, ``negatives``, ``candidates`` (number of
            items ranked), ``rank`` (1 is best), the metrics, ``seen_in_source`` (null where unknown).
        info: what was measured.
    """

    frame: pl.DataFrame
    info: EvaluationInfo

    @property
    def negatives(self) -> tuple[Negatives, ...]:
        """The kinds of negatives measured, in their usual order."""
        present = set(self.frame[KIND].unique())
        return tuple(kind for kind in NEGATIVES if kind in present)

    @checked
    def of(self, negatives: Negatives) -> pl.DataFrame:
        """The rows of one kind of negatives.

        Raises:
            DataError: that kind was not measured; names those that were.
        """
        if negatives not in self.negatives:
            raise DataError(
                f"results of {self.info.scorer!r} hold no {negatives!r} negatives, only "
                f"{', '.join(self.negatives)}: evaluate again with --negatives {negatives}"
            )
        return self.frame.filter(pl.col(KIND) == negatives)

    @checked
    def save(self, path: Path | str) -> None:
        """Write one Parquet file; results that are there are replaced in one step or not at all.

        Raises:
            DataError: another file is there.
            StorageError: the disk refuses.
        """
        refuse_foreign(path)
        with replacing_file(path) as temporary:
            stated = json.dumps({"format": _FORMAT, **asdict(self.info)})
            self.frame.write_parquet(temporary, metadata={_KEY: stated, _DIGEST: _digest(stated, self.frame)})

    @classmethod
    @checked
    def load(cls, path: Path | str) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: no such file, not Parquet, not written by ``xcrossrec evaluate``, incomplete, or changed since.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"no results file at {path}: make one with  xcrossrec evaluate ... --out {path}")
        with readable(path, "evaluate again"):
            metadata = pl.read_parquet_metadata(path)
        frame = read_parquet(path, remedy="evaluate again")
        info = _parse_info(path, metadata)
        if dict(frame.schema) != dict(RESULT_SCHEMA):
            raise DataError(
                f"{path} holds the columns {', '.join(frame.columns)}, expected {', '.join(RESULT_SCHEMA)} "
                "of their types: evaluate again"
            )
        if _DIGEST in metadata and metadata[_DIGEST] != _digest(metadata[_KEY], frame):  # older ones have none
            raise DataError(f"{path} is not as it was written: it was edited or damaged since; evaluate again")
        return cls(frame, info)

    def summary(self) -> dict[str, Any]:
        """Means and 95% intervals, in the form that ``evaluate --json`` prints.

        Beside ``users``, ``seed`` and ``metrics`` it names what was measured, lists ``warnings``, and where
        users of the sources' training sets are known, repeats the metrics ``without_seen`` users. ``lists`` is there
        where the whole catalogue was ranked.
        """
        info = self.info
        summary: dict[str, Any] = {
            **{name: getattr(info, name) for name in ("scorer", "domain", "split", "simulated")},
            "users": self.frame[USER].n_unique(),
            "seed": info.seed,
            "metrics": _means(self.frame, self.negatives),
            "warnings": self.warnings(),
            "fingerprint": info.fingerprint,
            "version": info.version,
            "wall_s": round(info.wall_s, 3),
        }
        told = {name: getattr(info, name) for name in ("lists", "rungs", "by_rung", "train_after")}
        summary |= {name: value for name, value in told.items() if value is not None and value != {}}
        if self.frame[SEEN].null_count() == 0:
            unseen = self.frame.filter(~pl.col(SEEN))
            metrics = _means(unseen, self.negatives) if unseen.height else {}
            summary["without_seen"] = {"users": unseen[USER].n_unique(), "metrics": metrics}
        return summary

    def warnings(self) -> list[str]:
        """The alarms of the protocol that these results set off, as sentences."""
        found = [*self.info.alarms]
        if self.info.train_after:
            found.append(
                f"{self.info.train_after:.1%} of the train purchases were made after half of these targets, so what "
                "was trained or counted on them knows what came later: data import --split temporal cuts all users at "
                "one moment"
            )
        for kind in self.negatives:
            hit = float(self.of(kind)["hit@1"].to_numpy().mean())
            if hit > LEAK_HIT_AT_1:
                found.append(
                    f"possible leak: hit@1 is {hit:.3f} with {kind} negatives, above {LEAK_HIT_AT_1}: "
                    "check that targets are in no history or training set"
                )
            ranked = self.of(kind).filter(pl.col("candidates") > 1)
            if ranked.height > 1 and (ranked["rank"] == ranked["candidates"]).all():
                found.append(
                    f"every target ranks last with {kind} negatives: most likely the scorer gives all candidates one "
                    "score, as a fresh pair head does before it has learned (ties count against it)"
                )
        return found


def means_by(group: Mapping[str, str], frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Summarise the users of each group apart: means and 95% intervals by kind of negatives.

    Args:
        group: of each user.
        frame: of :class:`Evaluation`.
    """
    of = frame[USER].replace_strict(group)
    parts = {name: frame.filter(of == name) for name in of.unique(maintain_order=True)}
    return {name: _means(part, tuple(part[KIND].unique(maintain_order=True))) for name, part in parts.items()}


def _means(frame: pl.DataFrame, kinds: tuple[Negatives, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in kinds:
        values = {metric: frame.filter(pl.col(KIND) == kind)[metric].to_numpy() for metric in METRICS}
        found[kind] = {metric: float(each.mean()) for metric, each in values.items()}
        found[kind]["ci"] = {metric: list(mean_interval(each)) for metric, each in values.items()}
    return found


def _digest(stated: str, frame: pl.DataFrame) -> str:
    """Of the rows and what is stated of them, whatever wraps them in a file."""
    found = hashlib.sha256(stated.encode())
    for row in frame.iter_rows():
        found.update(repr(row).encode())
    return found.hexdigest()


def _parse_info(path: Path, metadata: Mapping[str, str]) -> EvaluationInfo:
    remedy = "make it with  xcrossrec evaluate"
    if _KEY not in metadata:
        raise DataError(f"{path} is Parquet but not a results file, it lacks the {_KEY!r} metadata: {remedy}")
    try:
        found = json.loads(metadata[_KEY])
        version = found.pop("format")
        if version == _FORMAT:
            return EvaluationInfo(**found)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path} has damaged {_KEY!r} metadata ({error}): {remedy}") from error
    raise DataError(f"{path} is of results format {version}, this version reads {_FORMAT}: {remedy}")


def refuse_foreign(path: Path | str) -> None:
    """Refuse to write results over anything else.

    Raises:
        DataError: the file holds no results.
    """
    with suppress(pl.exceptions.PolarsError, OSError):
        if not Path(path).exists() or _KEY in pl.read_parquet_metadata(path):
            return
    raise DataError(f"{path} exists and holds no results of xcrossrec evaluate: it is left alone, choose another name")
