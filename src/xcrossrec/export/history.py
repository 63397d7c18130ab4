"""The history's part of a model as one small file of JSON, read by ``score.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xcrossrec.copurchase.counts import DECAY, LONGEST
from xcrossrec.export.request import HISTORY
from xcrossrec.models.day_one import ladder_of
from xcrossrec.models.model import Model, encoder_of, matcher_of

FORMAT = 1
SCORE = "score.py"
_DIGITS = 9


def history_part(model: Model) -> dict[str, Any]:
    """What makes scores of vectors: soft maximum, co-purchases by item, what is bought most; no customer is in it."""
    matcher, encoder, ladder = matcher_of(model), encoder_of(model), ladder_of(model)
    part: dict[str, Any] = {
        "format": FORMAT,
        "base": {"name": encoder.base_name, "digest": encoder.base_digest},
        "text": encoder.text.template,
        "prompts": {"history": encoder.recipe.history_prompt, "item": encoder.recipe.item_prompt},
        "sharpness": float(matcher.sharpness.detach()),
        "recency": matcher.log_recency.exp().tolist(),
        "copurchase": {"one": 0.0, "several": 0.0},
        "decay": DECAY,
        "longest": LONGEST,
        "items": [],
        "together": {},
        "popularity": {},
    }
    if ladder is None:
        return part
    part["copurchase"] |= ladder.term.weights
    counts = ladder.term.counts
    ids = list(counts.popularities())
    number = {item: place for place, item in enumerate(ids)}
    if any(part["copurchase"].values()):
        for item in ids:
            if found := counts.scores([item]):
                values = [round(value, _DIGITS) for value in found.values()]
                part["together"][item] = [[number[other] for other in found], values]
    alone = ladder.day_one.weights.get("none", {}).get("popularity", 1.0)  # for whoever bought nothing
    return {**part, "items": ids, "popularity": {item: alone * n for item, n in ladder.day_one.prior(counts).items()}}


def write_history(part: dict[str, Any], folder: Path) -> None:
    """Write ``history.json`` and ``score.py``."""
    (folder / HISTORY).write_text(json.dumps(part, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    (folder / SCORE).write_bytes(Path(__file__).with_name(SCORE).read_bytes())
