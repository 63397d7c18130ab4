"""Train RecTools' SASRec on sequences of item rows, then score histories; runs in the environment of setup.sh.

    python rank.py SEQUENCES SETTINGS

SEQUENCES is a JSON list of lists, SETTINGS a JSON object. When the model is trained, one JSON line about it goes to
standard output. Then each line of standard input names an .npz file with ``histories`` (user, slot; -1 pads at the
left) and perhaps ``candidates``; the scores are written beside it as .npy and their place is printed.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

_FEWEST_HELD_OUT = 8
_ROWS = 256


class KeepBest(Callback):
    """Remembers the weights of the epoch with the lowest loss on the users set aside."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: Trainer, module: torch.nn.Module) -> None:
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val_loss"])
        if not self.losses or loss < min(self.losses):
            self.state = copy.deepcopy(module.torch_model.state_dict())
        self.losses.append(loss)


def table(sequences: list[list[int]]) -> pd.DataFrame:
    rows = [(user, item, 1.0, slot) for user, items in enumerate(sequences) for slot, item in enumerate(items)]
    frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime])
    frame[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(frame[Columns.Datetime], unit="D")
    return frame


def held_out(frame: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """The last items of some users, where another row has the same item."""
    users = frame[Columns.User].unique()
    chosen = np.random.default_rng(seed).permutation(users)[: round(share * len(users))]
    last = ~frame.duplicated(Columns.User, keep="last")
    mask = (last & frame[Columns.User].isin(chosen)).to_numpy()
    elsewhere = set(frame.loc[~mask, Columns.Item])
    return mask & frame[Columns.Item].isin(elsewhere).to_numpy()


def quiet_trainer(epochs: int, callbacks: list[Callback]) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic=True,
        num_sanity_val_steps=0,
        callbacks=callbacks,
    )


def train(sequences: list[list[int]], settings: dict[str, float]) -> tuple[SASRecModel, dict[str, object]]:
    started = time.perf_counter()
    seed = int(settings["seed"])
    seed_everything(seed, workers=True, verbose=False)
    frame = table(sequences)
    mask = held_out(frame, settings["holdout_share"], seed)
    stops = int(mask.sum()) >= _FEWEST_HELD_OUT
    patience = int(settings["patience"])
    callbacks: list[Callback] = [KeepBest(), EarlyStopping("val_loss", patience=patience)] if stops else []
    epochs = int(settings["epochs" if stops else "epochs_without_stopping"])
    model = SASRecModel(
        n_blocks=int(settings["blocks"]),
        n_heads=int(settings["heads"]),
        n_factors=int(settings["dim"]),
        dropout_rate=settings["dropout"],
        session_max_len=int(settings["history_limit"]),
        loss="softmax",
        lr=settings["learning_rate"],
        batch_size=int(settings["batch_users"]),
        get_val_mask_func=(lambda _: mask) if stops else None,
        get_trainer_func=lambda: quiet_trainer(epochs, callbacks),
    )
    model.fit(Dataset.construct(frame))
    network = model.torch_model
    best = next((c for c in model.fit_trainer.callbacks if isinstance(c, KeepBest)), KeepBest())  # RecTools' own copy
    if best.state is not None:
        network.load_state_dict(best.state)
    network.eval()
    about = {
        "held_out_targets": int(mask.sum()) if stops else 0,
        "losses": best.losses,
        "parameters": sum(p.numel() for p in network.parameters()),
        "wall_s": time.perf_counter() - started,
    }
    return model, about


@torch.inference_mode()
def score(
    model: SASRecModel, histories: np.ndarray, candidates: np.ndarray | None, n_items: int, slots: int
) -> np.ndarray:
    """Scores of all items, or of candidates; an item that no training user had ranks below all others."""
    network, known = model.torch_model, model.data_preparator.item_id_map
    inside = np.zeros(n_items + 1, dtype=np.int64)  # 0 is RecTools' padding; the last is ours
    rows = np.array([row for row in known.external_ids if not isinstance(row, str)], dtype=np.int64)
    inside[rows] = known.convert_to_internal(rows)
    table = network.item_model.get_all_embeddings()
    items = network.similarity_module.item_tower_forward(table)
    out = []
    for start in range(0, len(histories), _ROWS):
        sessions = [inside[row][inside[row] > 0][-slots:] for row in histories[start : start + _ROWS]]
        x = torch.tensor(np.stack([np.pad(s, (slots - len(s), 0)) for s in sessions]))
        state = network.encode_sessions({"x": x}, table)[:, -1]
        scores = (network.similarity_module.session_tower_forward(state) @ items.t()).numpy()
        scores[(x == 0).all(1).numpy()] = 0.0
        unknown = inside[:n_items] == 0
        full = scores[:, inside[:n_items]]
        full[:, unknown] = scores.min(1, keepdims=True) - 1.0
        chosen = full if candidates is None else np.take_along_axis(full, candidates[start : start + _ROWS], axis=1)
        out.append(chosen.astype(np.float32))
    return np.concatenate(out)


def main(sequences_path: str, settings_path: str) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    settings = json.loads(Path(settings_path).read_text(encoding="utf-8"))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the library prints is not an answer
    model, about = train(json.loads(Path(sequences_path).read_text(encoding="utf-8")), settings)
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        path = Path(line.strip())
        with np.load(path) as asked:
            candidates = asked.get("candidates")
            found = score(model, asked["histories"], candidates, int(settings["items"]), int(settings["history_limit"]))
        np.save(path.with_suffix(".npy"), found)
        print(path.with_suffix(".npy"), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
