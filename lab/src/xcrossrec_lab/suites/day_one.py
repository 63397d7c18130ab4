"""The first day in a new category: what customers bought in another one, for all ordered pairs of categories.

    python -m xcrossrec_lab.suites.day_one ../shared/data/amazon-text --out runs/day-one

Of the users who bought in both categories some are asked about, and none of these is used in fitting: neither the
bridge, nor any weight, nor what is bought most knows them. Of the others 100, 300 or all have fitted the bridge. The
target is a user's first item in the new category; what she bought in the other one is all that is known of her. Texts
are encoded once by the untrained base, centered on the new category. Results are written per pair and number of users,
and what is there is not made again. The form of the bridge and its constants were chosen on other users of both
(lab/log, 2026-11-29).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Float64, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from xcrossrec import Domain, Evaluation, build_domain, evaluate, with_shared_users
from xcrossrec.models.base import load_base
from xcrossrec.models.bridge import Bridge
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.source import SourceEncoder
from xcrossrec.prompts import item_texts
from xcrossrec.training.day_one import POPULARITY_WEIGHTS, Fitting, Others
from xcrossrec.types import ITEM, POSITION, USER, Split

CATEGORIES = ("beauty", "sports", "toys")
BUDGETS = (100, 300, None)
ASKED, SEED = 400, 0
TEXT = "{title}; {brand}; {category}"
METHODS = ("popularity", "text", "text and popularity", "ladder")
_STUDIED, _STUDY_SEED = 600, 1
_BLENDS = (0.0, *POPULARITY_WEIGHTS, 0.2, 0.4)
_AT_ONCE = 256


@dataclass(frozen=True)
class Category:
    """One category, and its texts as the base alone encodes them.

    Attributes:
        domain: all users are in its train split.
        raw: vectors before they are centered.
        rows: the items that each user bought, oldest first.
    """

    domain: Domain
    raw: Float32[Tensor, "item dim"]
    rows: Mapping[str, tuple[int, ...]]

    @classmethod
    def read(cls, data: Path, name: str, out: Path) -> Category:
        """Read a category and encode its texts, or take them from an earlier run."""
        items, purchases = (
            pl.read_csv(data / name / f"{kind}.csv.gz", infer_schema=False) for kind in ("items", "interactions")
        )
        train = purchases.with_columns(pl.col(POSITION).cast(pl.Int64))
        domain = build_domain(name, items, {"train": train}, text=TEXT)
        if not (file := out / f"{name}.safetensors").exists():
            save_file({"raw": _encoded(domain.texts)}, file)
        sequences = domain.sequences("train", minimum=1)
        return cls(domain, load_file(file)["raw"], dict(zip(sequences.user_ids, sequences.rows, strict=True)))


class FirstDay:
    """Scores of all items for users of whom only purchases in another category are known.

    Args:
        name: what tables call it.
        means: by the texts of a user's purchases there, the row of :attr:`scores`.
        scores: of all items.
    """

    def __init__(self, name: str, row: Mapping[tuple[str, ...], int], scores: Float[np.ndarray, "user item"]) -> None:
        self.name, self.row, self.scores = name, row, scores

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Not asked: a user is known by what she bought elsewhere alone."""
        raise NotImplementedError

    def score_with(
        self,
        histories: Sequence[Sequence[int]],
        elsewhere: Sequence[Sequence[str]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """See :class:`xcrossrec.scoring.LadderScorer`."""
        scores = self.scores[[self.row[tuple(texts)] for texts in elsewhere]].astype(np.float32)
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


@dataclass(frozen=True)
class Pair:
    """From one category to another.

    Attributes:
        there: where purchases are known.
        here: the new category.
        asked: users who are asked about.
        others: users of both who may be fitted to, in the order in which budgets take them.
    """

    there: Category
    here: Category
    asked: Sequence[str]
    others: Sequence[str]

    @classmethod
    def of(cls, there: Category, here: Category) -> Pair:
        """Draw who is asked about: nobody whom the study asked that chose the form of the bridge."""
        shared = sorted({*there.rows} & {*here.rows})
        studied = {shared[place] for place in np.random.default_rng(_STUDY_SEED).permutation(len(shared))[:_STUDIED]}
        order = [shared[place] for place in np.random.default_rng(SEED).permutation(len(shared))]
        asked = [user for user in order if len(here.rows[user]) > 1 and user not in studied][:ASKED]
        return cls(there, here, asked, [user for user in order if user not in {*asked}])

    def domain(self) -> Domain:
        """The new category, those who are asked about apart, with what they bought in the other one."""
        frame, mine = self.here.domain.frame("train"), pl.col(USER).is_in(list(self.asked))
        splits: dict[Split, pl.DataFrame] = {"train": frame.filter(~mine), "test": frame.filter(mine)}
        made = Domain(self.here.domain.name, self.here.domain.items, splits, {}, self.here.domain.text)
        return with_shared_users(made, [self.there.domain])

    def run(self, budget: int | None) -> dict[str, Evaluation]:
        """Rank by all methods."""
        domain = self.domain()
        center = self.here.raw.mean(0)
        here, there = (torch.nn.functional.normalize(each.raw - center, dim=1) for each in (self.here, self.there))
        fitted, matcher = list(self.others[:budget]), HistoryMatcher()
        lately = domain.train_counts().astype(np.float64)
        means = torch.stack([there[list(self.there.rows[user])].mean(0) for user in (*fitted, *self.asked)])
        rows = [self.here.rows[user] for user in fitted]
        drawn = Others.draw(lately, SEED)
        fitting = Fitting(here, domain.items[ITEM].to_list(), means[: len(fitted)], rows, lately, drawn)
        weights = fitting.weights(matcher, SEED)["other"]
        text = {user: _text(there[list(self.there.rows[user])], here, matcher) for user in (*fitted, *self.asked)}
        popular = np.log1p(lately)
        blend = _blend(np.stack([text[user] for user in fitted]), popular, rows, drawn, lately)
        similar = np.stack([text[user] for user in self.asked])
        ladder = weights["popularity"] * popular + np.zeros((len(self.asked), 1))
        if weights["bridge"]:
            ladder = ladder + _bridged(fitting.bridge(range(len(fitted))), means[len(fitted) :], here)
        found = (np.tile(popular, (len(self.asked), 1)), similar, similar + blend * popular, ladder)
        known = domain.other_histories("test", first=True)
        row = {known[user]: number for number, user in enumerate(self.asked)}
        print(
            f"{self.there.domain.name} to {self.here.domain.name}, {len(fitted)}: {weights}, blend {blend}", flush=True
        )
        scorers = [FirstDay(name, row, scores) for name, scores in zip(METHODS, found, strict=True)]
        return {scorer.name: evaluate(scorer, domain, "test", seed=SEED, first=True) for scorer in scorers}


def _encoded(texts: Sequence[str]) -> Float32[Tensor, "item dim"]:
    """What the base's pooling makes of texts, before anything is taken off."""
    model: Model = build_model(SourceEncoder(load_base()))
    encoder_of(model).precision = "bf16"
    model.eval()
    read = item_texts(texts)
    vectors = torch.empty(len(read), encoder_of(model).dim)
    order = sorted(range(len(read)), key=lambda number: len(read[number]))
    with torch.inference_mode():
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            features = model[1](model[0](model[0].preprocess([read[number] for number in some])))
            vectors[some] = features["sentence_embedding"].float()
    return vectors


@torch.no_grad()
def _text(
    history: Float32[Tensor, "slot dim"], here: Float32[Tensor, "item dim"], matcher: HistoryMatcher
) -> Float32[np.ndarray, " item"]:
    """The similarity of what was bought elsewhere to each item, as the product scores a history here."""
    present = torch.ones(1, len(history), dtype=torch.bool)
    scores: Float32[np.ndarray, " item"] = matcher.match(history[None], present, here)[0].numpy()
    return scores


def _bridged(
    bridge: Bridge, means: Float32[Tensor, "user dim"], here: Float32[Tensor, "item dim"]
) -> Float64[np.ndarray, "user item"]:
    near = bridge.near(here)
    return np.stack([near.scores(leads).double().numpy() for leads in bridge.weigh(means)])


def _blend(
    text: Float32[np.ndarray, "user item"],
    popular: Float64[np.ndarray, " item"],
    rows: Sequence[Sequence[int]],
    others: Others,
    lately: Float64[np.ndarray, " item"],
) -> float:
    """The weight of popularity beside the text that is best for those who may be fitted to."""
    targets, weights = [own[0] for own in rows], np.array(_BLENDS)
    mine = np.log1p((lately[targets] - 1).clip(0))
    target = text[np.arange(len(rows)), targets][:, None] + weights * mine[:, None]
    scores = text[:, others.rows][:, None] + weights[:, None] * popular[others.rows][None, None]
    return float(weights[others.ranked(target, scores.astype(np.float64), rows).mean(1).argmax()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all pairs and numbers of users that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    read = {name: Category.read(given.data, name, given.out) for name in CATEGORIES}
    for there, here in permutations(CATEGORIES, 2):
        pair = Pair.of(read[there], read[here])
        for budget in BUDGETS:
            if not result_file(given.out, there, here, budget, METHODS[-1]).exists():
                for method, result in pair.run(budget).items():
                    result.save(result_file(given.out, there, here, budget, method))


def result_file(out: Path, there: str, here: str, budget: int | None, method: str) -> Path:
    """Where a method's results for a pair and a number of users lie."""
    return out / f"{there}-{here}-{budget or 'all'}-{method.replace(' ', '-')}.parquet"


if __name__ == "__main__":
    main()
