"""What a faster setting loses: MRR of a trained X-Cross on validation users, fast against slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from xcrossrec import Domain, Integration, source_config, target_config, train_source, train_target
from xcrossrec.data.candidates import draw_candidates
from xcrossrec.metrics.ranking import ranks
from xcrossrec.models import bundle
from xcrossrec.models.dual import DualScorer
from xcrossrec.prompts import item_texts
from xcrossrec_lab.speed import material
from xcrossrec_lab.speed.harness import Settings

Encode = Callable[[list[str]], Any]

_USERS, _SOURCE_USERS, _TARGET_USERS = 1000, 300, 200


def lost_mrr(
    settings: Settings,
    reference: Callable[[SentenceTransformer], Encode],
    fast: Callable[[SentenceTransformer], Encode],
) -> dict[str, Any]:
    """Compare two ways to encode by the MRR of the same trained model (1 + 29 candidates, popularity negatives).

    Args:
        settings: gives the work folder.
        reference: makes the slow encoding function of a model.
        fast: makes the fast one.

    Returns:
        both MRRs, the relative loss, the largest difference of two scores, and which model it was.
    """
    domain, path, trained_on = _trained(settings)
    model = bundle.load(path)
    assert isinstance(model, SentenceTransformer)
    histories, _ = domain.sequences("validation").histories_and_targets()
    kept = min(len(histories), 8 if settings.quick else _USERS)
    histories = histories[:kept]
    candidates = draw_candidates(domain, "validation", "popularity", seed=0).rows[:kept]
    needed = np.unique(np.concatenate([candidates.ravel(), *map(np.asarray, histories)]))
    slow_scores = _scores(model, domain, reference(model), needed, histories, candidates)
    fast_scores = _scores(model, domain, fast(model), needed, histories, candidates)
    slow, quick = _mrr(slow_scores), _mrr(fast_scores)
    return {
        "mrr_reference": slow,
        "mrr_fast": quick,
        "relative_loss": (slow - quick) / slow,
        "largest_score_difference": float(np.abs(slow_scores - fast_scores).max()),
        "users": kept,
        "model": trained_on,
    }


def _scores(
    model: SentenceTransformer,
    domain: Domain,
    encode: Encode,
    needed: np.ndarray,
    histories: list[tuple[int, ...]],
    candidates: np.ndarray,
) -> np.ndarray:
    texts = item_texts(domain.texts)
    encoded = torch.as_tensor(encode([texts[row] for row in needed]))
    vectors = torch.zeros(len(texts), encoded.shape[1])
    vectors[torch.from_numpy(needed)] = encoded.float()
    return np.asarray(DualScorer(model, domain.texts, vectors=vectors).score(histories, candidates))


def _mrr(scores: np.ndarray) -> float:
    return float((1 / ranks(scores)).mean())


def _trained(settings: Settings) -> tuple[Domain, Path, str]:
    """A small model, trained here."""
    counts = (8, 8) if settings.quick else (_SOURCE_USERS, _TARGET_USERS)
    return (*_small_model(settings, *counts), f"trained here on {counts[1]} Toys users, 2 sources of {counts[0]} users")


def _small_model(settings: Settings, source_users: int, target_users: int) -> tuple[Domain, Path]:
    base = material.base_name(settings)
    place = settings.work / f"small-{Path(base).name}"
    sources = []
    for name in ("electronics", "sports"):
        sources.append(place / name)
        if not sources[-1].is_dir():
            domain = material.training_domain(settings, name, source_users)
            config = source_config(epochs=1)
            train_source(domain, sources[-1], config=config, base=base, show_progress=False)
    domain = material.training_domain(settings, "toys", target_users, validation_users=max(8, target_users))
    if not (place / "toys").is_dir():
        config = target_config(epochs=1)
        form = Integration("xcross")
        train_target(
            domain, sources, place / "toys", config=config, integration=form, purchases=False, show_progress=False
        )
    return domain, place / "toys"
