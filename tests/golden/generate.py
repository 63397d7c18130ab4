"""How golden.npz was made: scores and losses by the code of commit b449ccf, before models were taken apart.

It runs with that commit's sources alone, since it names their modules:

    git worktree add ../before b449ccf
    PYTHONPATH=../before/src python tests/golden/generate.py ../before SHARED tests/golden/golden.npz

SHARED is the folder with ``data/amazon``. No id and no title is in the result, only numbers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from xcrossrec.baselines.neural import MeanScorer, trained

from xcrossrec.config import source_config, target_config
from xcrossrec.data import Domain, build_domain
from xcrossrec.models.bundle import encoder_of
from xcrossrec.models.scorer import build_scorer
from xcrossrec.training.losses import NextItemLoss, PairLoss
from xcrossrec.training.source import train_source, with_head
from xcrossrec.training.target import build_target_model, train_target

USERS, CANDIDATES, STEPS = 50, 8, 20
DUAL_BATCH, PAIR_BATCH = 4, 2
SMALL = {"epochs": 1, "holdout_share": 0.0, "sampled_negatives": 8, "pair_negatives": 3}
IN_BF16 = ("merged", "xcross-2", "pair-shared-xcross-all")
FORMS: dict[str, dict[str, Any]] = {
    "merged": {"integrator": "merged", "target_rank": 2},
    "xcross-2": {"integrator": "paper", "top_layers": 2},
    "xcross-all": {"integrator": "paper", "top_layers": None},
}
PAIRS: dict[str, dict[str, Any]] = {
    f"pair-{attention}-{form}": {**FORMS[form], "scoring": "pair", "pair_attention": attention}
    for attention in ("shared", "joint")
    for form in ("merged", "xcross-all")
}


def toys(shared: Path) -> Domain:
    """The target, of which the golden reads the first users."""
    folder = shared / "data" / "amazon" / "toys"
    import polars as pl

    parts = {name: pl.read_csv(folder / f"{name}.csv.gz") for name in ("items", "train", "validation")}
    items = parts["items"].with_columns(pl.col("item_id").cast(pl.String))
    splits = {
        name: parts[name].with_columns(pl.col("user_id", "item_id").cast(pl.String)) for name in ("train", "validation")
    }
    return build_domain("toys", items, splits)


def questions(domain: Domain) -> tuple[list[list[int]], np.ndarray]:
    """Histories and candidates of the first users."""
    rows = domain.sequences("validation").rows[:USERS]
    histories = [list(map(int, row))[:-1] for row in rows]
    drawn = np.random.default_rng(0).integers(len(domain.titles), size=(USERS, CANDIDATES - 1))
    targets = np.array([[int(row[-1])] for row in rows])
    return histories, np.concatenate([targets, drawn], axis=1)


def narrowed(domain: Domain, histories: list[list[int]], candidates: np.ndarray) -> tuple[list[str], Any, Any]:
    """Only the titles that are asked about, and the questions in their rows."""
    rows = sorted({*candidates.ravel().tolist(), *(row for history in histories for row in history)})
    place = {row: number for number, row in enumerate(rows)}
    titles = [domain.titles[row] for row in rows]
    return titles, [[place[r] for r in h] for h in histories], np.vectorize(place.__getitem__)(candidates)


def noise(role: str, tensor: torch.Tensor, scale: float) -> torch.Tensor:
    """Values that depend on the role and the shape alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(role.encode()))
    return torch.randn(tensor.shape, generator=generator) * scale


@torch.no_grad()
def fill(model: Any) -> None:
    """Give what trains values as training would, the same in any code."""
    encoder = encoder_of(model)
    for number, integrator in enumerate(encoder.integrators):
        integrator.concat_weight.copy_(noise(f"integrator {number}", integrator.concat_weight, 0.01))
    for path, lora in encoder.target_loras.items():
        lora.down.copy_(noise(f"lora {path} down", lora.down, 0.05))
        lora.up.copy_(noise(f"lora {path} up", lora.up, 0.05))
    if encoder.streams == 2:
        encoder.stream_weight.copy_(torch.tensor([0.55, 0.45]))
    for module in model:
        if type(module).__name__ == "PairHead":
            module.value.weight.copy_(noise("value", module.value.weight, 0.2))
        if type(module).__name__ == "Projection":
            module.down.copy_(noise("projection down", module.down, 0.05))
            module.up.copy_(noise("projection up", module.up, 0.05))


def scores(model: Any, domain: Domain, precision: str) -> np.ndarray:
    """Score the questions."""
    encoder_of(model).precision = precision
    titles, histories, candidates = narrowed(domain, *questions(domain))
    return np.asarray(build_scorer(model, titles).score(histories, candidates))


def recorded(run: Callable[[], object]) -> np.ndarray:
    """The loss of every step of a training."""
    found: list[float] = []
    originals = {kind: kind.forward for kind in (NextItemLoss, PairLoss)}

    def watching(kind: type) -> Any:
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            loss = originals[kind](self, *args, **kwargs)
            found.append(float(loss))
            return loss

        return forward

    for kind in originals:
        kind.forward = watching(kind)  # type: ignore[method-assign]
    try:
        run()
    finally:
        for kind, forward in originals.items():
            kind.forward = forward  # type: ignore[method-assign]
    return np.array(found)


def whole(folder: Path, work: Path) -> Path:
    """A kept adapter without the files that are not kept."""
    place = work / folder.name
    if not place.exists():
        shutil.copytree(folder, place)
        manifest = json.loads((place / "xcrossrec.json").read_text())
        files = {name: digest for name, digest in manifest["files"].items() if (place / name).exists()}
        (place / "xcrossrec.json").write_text(json.dumps({**manifest, "files": files}))
    return place


def main(before: Path, shared: Path, out: Path) -> None:
    """Compute everything."""
    domain = toys(shared)
    kept = before / "benchmarks" / "results" / "evidence"
    dual = [kept / "amazon" / "sources" / name for name in ("electronics", "sports")]
    pair = [kept / "pair" / "sources" / name for name in ("electronics", "sports")]
    result: dict[str, np.ndarray] = {}
    work = Path(tempfile.mkdtemp())
    for name, settings in {**FORMS, **PAIRS}.items():
        sources = pair if name.startswith("pair") else dual
        batch = PAIR_BATCH if name.startswith("pair") else DUAL_BATCH
        scoring = settings.get("scoring", "dual")
        config = target_config(settings["integrator"], users=batch * STEPS, scoring=scoring)
        torch.manual_seed(0)
        model = with_head(build_target_model(sources, **settings), domain, config)
        fill(model)
        model.eval()
        for precision in ("fp32", "bf16"):
            result[f"scores {name} {precision}"] = scores(model, domain, precision)
        for precision in ("fp32", "bf16") if name in IN_BF16 else ("fp32",):
            changed = target_config(
                settings["integrator"],
                users=batch * STEPS,
                scoring=scoring,
                batch_users=batch,
                precision=precision,
                **SMALL,
            )
            place = work / f"{name}-{precision}"
            result[f"losses {name} {precision}"] = recorded(
                lambda s=settings, c=changed, p=place, n=batch * STEPS, src=sources: train_target(
                    domain, src, p, config=c, budget=n, show_progress=False, **s
                )
            )
        np.savez_compressed(out, **{key: value.astype(np.float64) for key, value in result.items()})
        print(name, {k: v.ravel()[:3] for k, v in result.items() if f" {name} " in k}, flush=True)
    for precision in ("fp32", "bf16"):
        titles, histories, candidates = narrowed(domain, *questions(domain))
        mean = MeanScorer([trained(whole(path, work), titles, center=True, precision=precision) for path in dual])
        result[f"scores mean {precision}"] = np.asarray(mean.score(histories, candidates))
        config = source_config(batch_users=DUAL_BATCH, precision=precision, **SMALL)
        result[f"losses source {precision}"] = recorded(
            lambda c=config, p=work / f"source-{precision}": train_source(
                domain, p, config=c, budget=DUAL_BATCH * STEPS, show_progress=False
            )
        )
    np.savez_compressed(out, **{key: value.astype(np.float64) for key, value in result.items()})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
