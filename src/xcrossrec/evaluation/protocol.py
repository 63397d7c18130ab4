"""The protocol: last item as target, three kinds of negatives, one row of metrics per user.

``uniform`` and ``popularity`` rank the target among 29 drawn negatives, shared by every method through
a candidate file; ``full`` ranks it in the whole catalogue without the user's other items, or with them where the
import kept repeats: what was bought may then be bought again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from xcrossrec._version import __version__
from xcrossrec.arguments import checked
from xcrossrec.data.candidates import Candidates, candidates_for
from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.data.splitting import ONE_MOMENT, at_one_moment, bought_after
from xcrossrec.evaluation.result import RESULT_SCHEMA, SEEN, Evaluation, EvaluationInfo, means_by
from xcrossrec.exceptions import ConfigError, DataError, ModelError
from xcrossrec.metrics.lists import best_items, list_metrics
from xcrossrec.metrics.ranking import catalogue_ranks, per_user_metrics, ranks
from xcrossrec.progress import Stage, stage
from xcrossrec.scoring import LadderScorer, Rung, Scorer, rung_of
from xcrossrec.types import ITEM, NEGATIVES, USER, Negatives, Split

_Ranked = tuple[Int[np.ndarray, " user"], Int[np.ndarray, " user"]]  # ranks, numbers of items ranked


@checked
def evaluate(
    scorer: Scorer,
    domain: Domain,
    split: Split = "validation",
    *,
    negatives: Sequence[Negatives] = NEGATIVES,
    seed: int = 0,
    directory: Path | str | None = None,
    seen_users: Collection[str] | None = None,
    batch_users: int = 256,
    first: bool = False,
) -> Evaluation:
    """Rank every user's last item and keep the metrics of each user.

    A scorer that reads histories from other categories gets those that the domain has. Each batch is scored once: where
    ``full`` is asked, the other kinds read their candidates from the scores of the whole catalogue.

    Args:
        scorer: bound to the catalogue of ``domain``, of whose ``split`` the users are ranked.
        negatives: which kinds, each once.
        seed: of the drawn candidates.
        directory: the domain's folder; candidates are read from and written to its ``candidates``.
            None draws them in memory.
        seen_users: ids of the users of the sources' training sets, where sources are known.
        batch_users: users scored at a time.
        first: the first day: rank every user's first item instead, and let no purchase here be known; users of the
            train split are left out, and candidates drawn in memory.

    Returns:
        one row a user and kind of negatives, with what is needed to repeat it; users who bought so much that no
        29 negatives are left are not among those of that kind, and after ``--repeats drop`` nobody is who had bought
        the target before.

    Raises:
        ConfigError: no or unknown or repeated ``negatives``, or no users at a time.
        DataError: the split is absent or has no user with a history, or candidates do not fit it.
        ModelError: the scorer returned another shape than asked for, or scores that are not finite.
    """
    if not negatives or not set(negatives) <= set(NEGATIVES) or len(set(negatives)) < len(negatives):
        raise ConfigError(f"negatives must be one or more of {', '.join(NEGATIVES)}, each once, got {list(negatives)}")
    others = domain.other_histories(split, first=first) if isinstance(scorer, LadderScorer) else {}
    if first:
        domain, directory = first_day(domain, split), None
    sequences, alarms = _asked_users(domain, split, first=first)
    drawing = partial(candidates_for, domain, split, seed=seed, directory=directory)
    candidates = {kind: drawing(kind) for kind in negatives if kind != "full"}
    drawn: dict[Negatives, Int[np.ndarray, "user candidate"]] = {
        kind: _for_all(found, sequences) for kind, found in candidates.items()
    }
    start = time.perf_counter()
    histories = [()] * len(sequences) if first else sequences.histories_and_targets()[0]
    asked = _Asked(scorer, histories, [others.get(user, ()) for user in sequences.user_ids])
    with stage(f"ranking by {scorer.name}", "users") as bar:
        ranked, lists = _rank_all(asked, domain, sequences, negatives, drawn, batch_users, bar)
    info = EvaluationInfo(
        scorer=scorer.name,
        domain=domain.name,
        fingerprint=domain.fingerprint,
        split=split,
        seed=seed,
        version=__version__,
        wall_s=time.perf_counter() - start,
        simulated=bool(domain.manifest.get("simulated", False)),
        lists=_measure_lists(domain, sequences, lists),
        rungs=dict(Counter(asked.rungs())) if isinstance(scorer, LadderScorer) else None,
        train_after=_train_after(domain, split),
        alarms=alarms,
    )
    frame = _frame(sequences.user_ids, ranked, seen_users)
    for kind, found in candidates.items():
        frame = frame.filter((pl.col("negatives") != kind) | pl.col(USER).is_in(found.user_ids))
    if info.rungs and len(info.rungs) > 1:
        info = replace(info, by_rung=means_by(dict(zip(sequences.user_ids, asked.rungs(), strict=True)), frame))
    return Evaluation(frame, info)


def _asked_users(domain: Domain, split: Split, *, first: bool) -> tuple[Sequences, list[str]]:
    """The users, without those whose target is no new one where the import dropped repeats, and what to say of them."""
    every = domain.sequences(split)
    dropped = domain.filters.get("repeats") == "drop"  # ready splits do not say so
    sequences = every.with_new_targets() if dropped and not first else every
    again = (
        f"{len(every) - len(sequences):,} users are left out, whose last purchase repeats an earlier one and would not "
        "be recommended: data import --repeats keep ranks it, --repeats first takes first purchases only"
    )
    if len(sequences) == 0:
        raise DataError(
            f"domain {domain.name!r} has 0 users with a history and a target in split {split!r}: evaluation needs "
            f"sequences of at least 2 items{f' ({again})' if len(every) else ''}"
        )
    same = None if first or domain.keeps_orders_whole else at_one_moment(domain.frame(split))
    told = [f"{same[0]:,} of {same[1]:,} targets {ONE_MOMENT}"] if same else []
    return sequences, [*told, *([again] if len(sequences) < len(every) else [])]


def _for_all(found: Candidates, sequences: Sequences) -> Int[np.ndarray, "user candidate"]:
    """Give every user a list: those without one their target alone, whose rank is left out later."""
    if found.user_ids == sequences.user_ids:
        return found.rows
    listed = dict(zip(found.user_ids, found.rows, strict=True))
    width = found.rows.shape[1]
    rows = zip(sequences.user_ids, sequences.rows, strict=True)
    return np.array([listed.get(user, np.full(width, own[-1])) for user, own in rows], dtype=np.int64)


@dataclass(frozen=True)
class _Asked:
    """What a scorer is told of each user."""

    scorer: Scorer
    histories: Sequence[Sequence[int]]
    elsewhere: Sequence[Sequence[str]]

    def rungs(self) -> list[Rung]:
        """Where each user stands."""
        return [rung_of(own, there) for own, there in zip(self.histories, self.elsewhere, strict=True)]

    def score(
        self, users: slice, candidates: Int[np.ndarray, "user candidate"] | None, width: int
    ) -> Float[np.ndarray, "user candidate"]:
        """Ask the scorer and refuse an answer that cannot be ranked."""
        histories, name = self.histories[users], self.scorer.name
        if isinstance(self.scorer, LadderScorer):
            scores = self.scorer.score_with(histories, self.elsewhere[users], candidates)
        else:
            scores = self.scorer.score(histories, candidates)
        if scores.shape != (len(histories), width):
            raise ModelError(
                f"scorer {name!r} returned scores of shape {scores.shape}, expected {(len(histories), width)}: it must "
                "be bound to this catalogue"
            )
        if not np.isfinite(scores).all():
            bad = int(np.count_nonzero(~np.isfinite(scores)))
            raise ModelError(f"scorer {name!r} returned {bad} scores that are not finite: repair it")
        return scores


def _rank_all(
    asked: _Asked,
    domain: Domain,
    sequences: Sequences,
    negatives: Sequence[Negatives],
    drawn: Mapping[Negatives, Int[np.ndarray, "user candidate"]],
    batch_users: int,
    bar: Stage,
) -> tuple[dict[Negatives, _Ranked], list[Int[np.ndarray, "_ place"]]]:
    """Rank the targets, and list the best of the catalogue where all of it is scored."""
    _, targets = sequences.histories_and_targets()
    left_out = [()] * len(sequences) if domain.keeps_repeats else sequences.rows
    parts: dict[Negatives, list[_Ranked]] = {kind: [] for kind in negatives}
    best: list[Int[np.ndarray, "_ place"]] = []
    if batch_users < 1:
        raise ConfigError(f"batch_users is {batch_users}: give 1 or more")
    for start in range(0, len(sequences), batch_users):
        chosen = slice(start, start + batch_users)
        lists = {kind: rows[chosen] for kind, rows in drawn.items()}
        if "full" in parts:
            scores = asked.score(chosen, None, domain.items.height)
            parts["full"].append(catalogue_ranks(scores, targets[chosen], left_out[chosen]))
            best.append(best_items(scores, left_out[chosen], targets[chosen]))
            of_lists = [np.take_along_axis(scores, rows, axis=1) for rows in lists.values()]
        else:
            rows = np.concatenate(list(lists.values()), axis=1)
            of_lists = np.split(asked.score(chosen, rows, rows.shape[1]), len(lists), axis=1)
        for kind, of_list in zip(lists, of_lists, strict=True):
            parts[kind].append((ranks(of_list), np.full(len(of_list), of_list.shape[1])))
        bar.at(min(start + batch_users, len(sequences)), len(sequences))
    ranked = {
        kind: (np.concatenate([r for r, _ in of]), np.concatenate([n for _, n in of])) for kind, of in parts.items()
    }
    return ranked, best


def _measure_lists(
    domain: Domain, sequences: Sequences, best: Sequence[Int[np.ndarray, "_ place"]]
) -> dict[str, float] | None:
    if not best:
        return None
    _, targets = sequences.histories_and_targets()
    counts = domain.train_counts() if "train" in domain.splits else None
    return list_metrics(np.concatenate(best), domain.items.height, counts, targets)


def _train_after(domain: Domain, split: Split) -> float | None:
    """The share of the train purchases that were made after half of the targets; None without times."""
    if split == "train" or "train" not in domain.splits:
        return None
    found = bought_after(domain.frame("train"), domain.frame(split))
    return None if found is None else found[0] / max(found[1], 1)


def _frame(
    user_ids: Sequence[str], ranked: Mapping[Negatives, _Ranked], seen_users: Collection[str] | None
) -> pl.DataFrame:
    known = None if seen_users is None else frozenset(seen_users)
    seen = [None if known is None else user in known for user in user_ids]
    frames = []
    for kind, (rank, of_items) in ranked.items():
        columns = {USER: list(user_ids), "negatives": [kind] * len(user_ids), "candidates": of_items}
        columns |= {"rank": rank, **per_user_metrics(rank), SEEN: seen}
        frames.append(pl.DataFrame(columns, schema=RESULT_SCHEMA))
    return pl.concat(frames)


# ---- a domain asked otherwise


def first_day(domain: Domain, split: Split) -> Domain:
    """Move the first purchase of each user of a split behind the others, so that it is the target of the protocol.

    Users of the train split are left out: models know their first purchases.

    Args:
        domain: imported with ``--split by-user`` or ``temporal``, so that it has others.
        split: whose users.

    Raises:
        DataError: all of them are in the train split, too, or none has two purchases.
    """
    if split == "train":
        raise DataError("models know the first purchases of the train split: rank the users of another one")
    known = domain.interactions["train"].select(USER).unique() if "train" in domain.splits else None
    frame = domain.frame(split)
    frame = frame if known is None else frame.join(known, on=USER, how="anti", maintain_order="left")
    user = pl.col(USER)  # each one's rows stand together
    moved = frame.sort(user.rle_id(), user.is_first_distinct(), maintain_order=True)
    if not domain.frame(split).is_empty() and moved.is_empty():
        raise DataError(
            f"all users of {split!r} of domain {domain.name!r} are in its train split, too, so their first purchases "
            "are known: import it with --split by-user"
        )
    filters = {**domain.filters, "orders": None}  # the first is not the latest
    manifest = {**_without_fingerprint(domain.manifest), "filters": filters}
    return replace(domain, interactions={**domain.interactions, split: moved}, manifest=manifest)


def _without_fingerprint(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != "fingerprint"}


def without_field(domain: Domain, field: str) -> Domain:
    """Give every item an empty field, so that it vanishes from the texts of whatever reads it.

    Args:
        domain: stays as it is.
        field: a column of its items.

    Raises:
        DataError: the items have no such column.
    """
    columns = [column for column in domain.items.columns if column != ITEM]
    if field not in columns:
        raise DataError(
            f"the items of domain {domain.name!r} have no column {field!r}, they have {', '.join(columns)}: give one "
            "of these, or import the column"
        )
    kind = domain.items.schema[field]
    empty = pl.lit("" if kind == pl.String else None, dtype=kind).alias(field)
    return replace(domain, items=domain.items.with_columns(empty), manifest=_without_fingerprint(domain.manifest))
