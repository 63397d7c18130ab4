"""Comparison of base models on own data before training: how well they rank, and what they cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from xcrossrec.arguments import checked
from xcrossrec.data.candidates import draw_candidates
from xcrossrec.data.domain import Domain
from xcrossrec.evaluation import Evaluation, compare, evaluate, verdict
from xcrossrec.evaluation.table import aligned
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import encoder_of
from xcrossrec.models.scorer import ModelScorer, untrained
from xcrossrec.models.tokens import unread
from xcrossrec.types import NEGATIVES, Negatives

SMALL_CATALOGUE = 20_000
"""Largest catalogue that is encoded and ranked in full, if the users' lists have half of it; else only their items."""

MOST_USERS, MOST_OF_LARGE = 5_000, 1_000
"""Most users that are ranked: with a small catalogue, and with a large one, where each adds some 60 items."""

_log = logging.getLogger(__name__)

_TIMED = 256
"""Items whose encoding is timed, after a first pass."""


class _OfSome:
    """Scores a part of a catalogue by rows of the whole one; needs candidates."""

    def __init__(self, scorer: ModelScorer, rows: Int64[np.ndarray, " item"]) -> None:
        self._scorer, self._rows, self.name = scorer, rows, scorer.name

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`."""
        assert candidates is not None
        inside = [np.searchsorted(self._rows, history).tolist() for history in histories]
        return self._scorer.score(inside, np.searchsorted(self._rows, candidates))


@checked
def compare_bases(
    domain: Domain, bases: Sequence[Path | str], *, users: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Rank the validation users' last items by each base's own similarity, untrained and centered on the catalogue.

    Args:
        domain: gives texts, users and candidates, which are those of `xcrossrec evaluate`.
        bases: names or folders, each once, at least two; the others are compared with the first.
        users: how many at most, drawn by seed; None takes :data:`MOST_USERS`, of more than
            :data:`SMALL_CATALOGUE` items :data:`MOST_OF_LARGE`.
        seed: of users and candidates.

    Returns:
        ``domain``, ``split``, ``users``, ``items`` (encoded), ``seed``, ``simulated``, ``verdict`` (a sentence) and
        ``bases``: for each ``name`` (short), ``base``, ``digest`` (of weights, tokenizer and configuration),
        ``ms_per_1000_items`` (to encode them here), ``mb_per_1000_items`` (of their vectors), ``model_mb`` (of its
        weights), ``unread`` (:func:`xcrossrec.models.tokens.unread`), ``mrr`` by kind of negatives and, but for the
        first, ``comparison`` with it (:func:`xcrossrec.evaluation.compare`).

    Raises:
        ConfigError: fewer than two bases, or one twice.
        DataError: no validation users, or a catalogue too small for candidates.
        ModelError: a base cannot be loaded.
    """
    names = [str(base) for base in bases]
    if len(names) < 2 or len({*names}) < len(names):
        raise ConfigError(f"bases are compared with the first of at least two, got {', '.join(names)}: name others")
    digests = {base: load_base(base).digest for base in names}  # stop before the work, not after it
    small = domain.items.height <= SMALL_CATALOGUE
    sampled = domain.with_users("validation", users or (MOST_USERS if small else MOST_OF_LARGE), seed)
    drawn = [draw_candidates(sampled, "validation", kind, seed=seed).rows.ravel() for kind in ("uniform", "popularity")]
    bought = [np.array(rows, dtype=np.int64) for rows in sampled.sequences("validation").rows]
    rows = np.unique(np.concatenate([*drawn, *bought]))
    if small and rows.size > domain.items.height / 2:
        rows = np.arange(domain.items.height)
    entries: list[dict[str, Any]] = []
    results: list[Evaluation] = []
    for base, name in zip(names, _short(names), strict=True):
        _log.info("%s: encoding %d of %d items", base, rows.size, domain.items.height)
        entry, evaluation = _measure(base, name, digests[base], sampled, rows, seed)
        if results:
            entry["comparison"] = compare(evaluation, results[0], permutations=1_000)
        entries.append(entry)
        results.append(evaluation)
    info = results[0].info
    return {
        "domain": info.domain,
        "split": info.split,
        "users": len(sampled.sequences("validation")),
        "items": int(rows.size),
        "seed": seed,
        "simulated": info.simulated,
        "verdict": _verdict(entries),
        "bases": entries,
    }


def bases_table(found: dict[str, Any]) -> str:
    """A comparison of bases as text: the verdict, then one row per base."""
    kinds = list(found["bases"][0]["mrr"])
    first = found["bases"][0]["name"]
    rows = [
        [
            each["name"],
            f"{each['ms_per_1000_items']:,.0f}",
            f"{each['mb_per_1000_items']:.2f}",
            f"{each['model_mb']:,.0f}",
            f"{each['unread']:.0%}",
            *(cell for kind in kinds for cell in (f"{each['mrr'][kind]:.4f}", _difference(each, kind))),
        ]
        for each in found["bases"]
    ]
    header = ["base", "ms", "MB", "model MB", "unread", *(cell for kind in kinds for cell in (kind, "difference"))]
    caption = (
        f"{found['domain']} {found['split']}: {found['users']:,} users, seed {found['seed']}; untrained, centered. ms "
        "and MB of a thousand items; unread: letters that it cannot read as parts of words; MRR, and its difference to "
        f"{first} with 95% interval"
    )
    return "\n".join([found["verdict"], "", caption, "", *aligned(header, rows)])


def _short(names: Sequence[str]) -> Sequence[str]:
    """The last part of each name, if these differ."""
    last = [Path(name).name for name in names]
    return last if len({*last}) == len(last) else names


def _measure(
    base: str, name: str, digest: str, domain: Domain, rows: Int64[np.ndarray, " item"], seed: int
) -> tuple[dict[str, Any], Evaluation]:
    """The result for one base on a domain, and its ranks of each user's last item."""
    texts = [domain.texts[row] for row in rows]
    scorer = untrained(base, texts, center=True, name=name)
    whole = rows.size == domain.items.height
    kinds: tuple[Negatives, ...] = NEGATIVES if whole else ("uniform", "popularity")
    asked = scorer if whole else _OfSome(scorer, rows)
    evaluation = evaluate(asked, domain, "validation", negatives=kinds, seed=seed)
    timed = texts[:: -(-len(texts) // _TIMED)]
    start = time.perf_counter()
    vectors = kind_of(scorer.model).encode_items(scorer.model, timed)
    seconds = time.perf_counter() - start  # with as many threads as torch takes
    told = {
        "name": name,
        "base": base,
        "digest": digest,
        "ms_per_1000_items": round(seconds * 1e6 / len(timed), 1),
        "mb_per_1000_items": vectors.shape[1] * vectors.itemsize / 1e3,
        "model_mb": round(sum(p.numel() * p.element_size() for p in scorer.model.parameters()) / 1e6, 1),
        "unread": round(unread(encoder_of(scorer.model).tokenizer, texts), 3),
        "mrr": {kind: float(evaluation.of(kind)["mrr"].to_numpy().mean()) for kind in evaluation.negatives},
    }
    return told, evaluation


def _verdict(entries: Sequence[dict[str, Any]]) -> str:
    """Recommend a base, by negatives drawn by popularity; only an interval without 0 counts."""
    first, *others = entries
    best = max(others, key=lambda each: each["mrr"]["popularity"])
    low, high = best["comparison"]["metrics"]["popularity"]["mrr"]["ci"]
    said = verdict(best["comparison"], "popularity")
    ratio = best["ms_per_1000_items"] / first["ms_per_1000_items"]
    cost = f"{best['name']} takes {ratio:.1f} times as long as {first['name']} to encode an item"
    if low > 0:
        return f"{said} {cost}."
    if high < 0:
        return f"{said} Every other base ranks worse still: take {first['name']}."
    return f"{said} {cost}: the quicker one will do."


def _difference(entry: dict[str, Any], kind: str) -> str:
    if "comparison" not in entry:
        return ""
    found = entry["comparison"]["metrics"][kind]["mrr"]
    low, high = found["ci"]
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
