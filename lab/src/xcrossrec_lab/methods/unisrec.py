"""UniSRec's idea: frozen text vectors, an adaptor of whitening experts, a transformer over items.

Adaptor and transformer are trained on the sources' sequences; on the target the adaptor and the temperature are
trained further and the transformer is frozen (UniSRec's parameter-efficient setting, inductive: an item is its
text). Left out: the sequence-to-sequence contrast of the pre-training, and noise in the experts' gate.

Legend: ``user`` = one sequence, ``step`` = position in it, ``item`` = an item, ``text`` = size of a text vector,
``expert`` = one whitening, ``dim`` = model size.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xcrossrec import ConfigError, Domain
from xcrossrec.copurchase import user_hash
from xcrossrec.data.domain import Sequences
from xcrossrec.models.base import load_base
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder
from xcrossrec.prompts import item_texts
from xcrossrec.scoring import check_rows
from xcrossrec.training.batches import HISTORY_LIMIT
from xcrossrec.training.source import source_users
from xcrossrec_lab.task import Fitted, Source, Task, check_settings

UNISREC_RATE = 1e-3
"""AdamW's rate on the target."""

_FORMAT = 2
_DIM, _EXPERTS, _LAYERS, _HEADS, _DROPOUT = 128, 8, 2, 2, 0.2
_SCALE = 1 / 0.07
_POSITION_STD = 0.02
"""Of the positions' start, as in UniSRec: with PyTorch's 1 they drown the items, whose entries start at 0.05."""
_SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: at most.
        batch_users: users a step.
        learning_rate: AdamW's.
        patience: epochs without a lower loss on the users set aside.
        holdout_share: of the users, 8 to 256 of them.
        sampled_negatives: items of the catalogue beside the batch's own.
        history_limit: newest items in use.
        seed: of order, draws and dropout.
    """

    epochs: int
    batch_users: int
    learning_rate: float
    patience: int
    holdout_share: float
    sampled_negatives: int
    history_limit: int
    seed: int


class UniSRec(nn.Module):
    """Adaptor and transformer.

    Args:
        text: size of a text vector.
        slots: longest sequence.
        dim: model size.
        experts: number of whitenings.
    """

    def __init__(self, text: int, slots: int, *, dim: int, experts: int) -> None:
        super().__init__()
        self.adaptor = Adaptor(text, dim, experts)
        self.position = nn.Embedding(slots, dim)
        nn.init.normal_(self.position.weight, std=_POSITION_STD)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(_DROPOUT)
        layer = nn.TransformerEncoderLayer(dim, _HEADS, 4 * dim, _DROPOUT, "gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(_SCALE))))

    def read(self, items: Float[Tensor, "user step dim"]) -> Float[Tensor, "user step dim"]:
        """Give each step the unit vector of what may come next."""
        steps = items.shape[1]
        states = self.dropout(self.norm(items + self.position.weight[:steps]))
        later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        return nn.functional.normalize(self.transformer(states, mask=later, is_causal=True), dim=-1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Inverse temperature of the softmax, kept below 100."""
        return self.log_scale.clamp(max=float(np.log(100.0))).exp()


class Adaptor(nn.Module):
    """A gated sum of whitenings: ``sum_e g_e(x) (x - b_e) W_e``.

    Args:
        text: size of x.
        dim: size of the result.
        experts: number of whitenings.
    """

    def __init__(self, text: int, dim: int, experts: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(experts, text))
        self.weight = nn.Parameter(torch.randn(experts, text, dim) * text**-0.5)
        self.gate = nn.Linear(text, experts, bias=False)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Float[Tensor, "item text"]) -> Float[Tensor, "item dim"]:
        """Map text vectors into the space of items."""
        share = self.gate(x).softmax(-1)
        x = self.dropout(x)
        moved = torch.einsum("et,etd->ed", self.shift, self.weight)
        whitened = torch.einsum("nt,etd->ned", x, self.weight) - moved
        return torch.einsum("ned,ne->nd", whitened, share)


def next_item_loss(
    model: UniSRec, vectors: Float[Tensor, "item text"], sequences: Sequence[Sequence[int]], drawn: Sequence[int]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of each step's next item among the batch's items, the drawn ones, and none of the user's own.

    Args:
        model: the model.
        vectors: all items' text vectors.
        sequences: item rows, oldest first.
        drawn: rows of further negatives.
    """
    rows = sorted({row for sequence in sequences for row in sequence} | set(drawn))
    place = {row: number for number, row in enumerate(rows)}
    longest = max(map(len, sequences))
    steps = torch.tensor([[place[row] for row in s] + [-1] * (longest - len(s)) for s in sequences])
    items = model.adaptor(vectors[rows])
    states = model.read(items[steps[:, :-1].clamp(min=0)])
    scores = model.scale * states @ nn.functional.normalize(items, dim=-1).t()
    own = torch.zeros(len(steps), len(rows) + 1, dtype=torch.bool).scatter(1, steps.where(steps >= 0, len(rows)), True)
    target = steps[:, 1:]
    is_target = torch.zeros(scores.shape, dtype=torch.bool).scatter(2, target.clamp(min=0)[..., None], True)
    logits = scores.masked_fill(own[:, None, :-1] & ~is_target, -torch.inf)
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)


def fit_sequences(
    model: UniSRec, vectors: Float[Tensor, "item text"], users: Sequences, schedule: Schedule
) -> dict[str, Any]:
    """Train what requires a gradient, with early stopping; the best weights are kept, the start's among them.

    Args:
        model: trained in place.
        vectors: all items' text vectors; users' rows point into it.
        users: some are set aside.
        schedule: settings.
    """
    started = time.perf_counter()
    count = min(max(round(schedule.holdout_share * len(users)), 8), 256) if len(users) >= 32 else 0
    training, held = users.split_off(count, schedule.seed) if count else (users, None)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(schedule.seed)
    initial = _held_loss(model, vectors, held, schedule) if held else None
    best, kept, losses = initial, deepcopy(model.state_dict()), list[float]()
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        for _ in range(schedule.epochs):
            _epoch(model, vectors, training, schedule, optimizer, rng)
            if held is None:
                continue
            losses.append(_held_loss(model, vectors, held, schedule))
            if best is None or losses[-1] < best:
                best, kept = losses[-1], deepcopy(model.state_dict())
            elif len(losses) - 1 - int(np.argmin(losses)) >= schedule.patience:
                break
    if held is not None:
        model.load_state_dict(kept)
    model.eval()
    return {
        "users": len(training),
        "holdout_users": count,
        "epochs": float(len(losses) if held else schedule.epochs),
        "initial_loss": initial,
        "best_loss": best,
        "losses": losses,
        "wall_s": time.perf_counter() - started,
        "trained_parameters": sum(p.numel() for p in parameters),
    }


def _epoch(
    model: UniSRec,
    vectors: Tensor,
    users: Sequences,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    model.train()
    order = rng.permutation(len(users))
    for start in range(0, len(order), schedule.batch_users):
        loss = next_item_loss(
            model,
            vectors,
            _newest(users, order[start : start + schedule.batch_users], schedule),
            _draw(vectors, schedule, rng),
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _held_loss(model: UniSRec, vectors: Tensor, users: Sequences, schedule: Schedule) -> float:
    """The loss with the same draws each time."""
    model.eval()
    rng = np.random.default_rng(schedule.seed)
    total = 0.0
    for start in range(0, len(users), schedule.batch_users):
        chosen = np.arange(start, min(start + schedule.batch_users, len(users)))
        drawn = _draw(vectors, schedule, rng)
        total += float(next_item_loss(model, vectors, _newest(users, chosen, schedule), drawn)) * len(chosen)
    return total / len(users)


def _newest(users: Sequences, chosen: np.ndarray, schedule: Schedule) -> list[Sequence[int]]:
    return [users.rows[user][-(schedule.history_limit + 1) :] for user in chosen]


def _draw(vectors: Tensor, schedule: Schedule, rng: np.random.Generator) -> list[int]:
    drawn: list[int] = rng.integers(len(vectors), size=schedule.sampled_negatives).tolist()
    return drawn


class UniSRecScorer:
    """A trained model bound to a catalogue; an empty history scores every item 0.

    Args:
        model: adaptor and transformer.
        vectors: the catalogue's text vectors.
        history_limit: newest history items in use.
    """

    name = "unisrec"

    def __init__(self, model: UniSRec, vectors: Float[Tensor, "item text"], history_limit: int) -> None:
        self.model = model.eval()
        self._limit = history_limit
        with torch.inference_mode():
            self._items = torch.cat([model.adaptor(part) for part in torch.split(vectors, 2048)])
            self._units = nn.functional.normalize(self._items, dim=-1)

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates by the cosine with the sequence; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        check_rows(histories, candidates, len(self._items))
        width = len(self._items) if candidates is None else candidates.shape[1]
        scores = np.zeros((len(histories), width), dtype=np.float32)
        filled = [user for user, history in enumerate(histories) if len(history)]
        for start in range(0, len(filled), _SCORED_AT_ONCE):
            users = filled[start : start + _SCORED_AT_ONCE]
            found = self._states([histories[user] for user in users]) @ self._units.t()
            chosen = found if candidates is None else found.gather(1, torch.from_numpy(candidates[users]))
            scores[users] = chosen.numpy()
        return scores

    @torch.inference_mode()
    def _states(self, histories: Sequence[Sequence[int]]) -> Float[Tensor, "user dim"]:
        recent = [list(history)[-self._limit :] for history in histories]
        longest = max(map(len, recent))
        padded = torch.tensor([history + [0] * (longest - len(history)) for history in recent])
        states = self.model.read(self._items[padded])
        last = torch.tensor([len(history) - 1 for history in recent])
        return states[torch.arange(len(recent)), last]


def unisrec(task: Task) -> Fitted:
    """Pre-train on the sources' sequences, then train the adaptor on the budget's users.

    Settings: ``epochs`` and ``patience`` on the target (60, 5: an epoch takes a second), ``pretraining_epochs`` (20),
    ``all_source_users`` (no: the users that the sources' adapters were trained on, so that all methods learn from
    the same).

    Raises:
        ConfigError: a source has none of the users that its adapter names.
    """
    check_settings(task, {"epochs", "patience", "pretraining_epochs", "all_source_users"})
    cache = task.work.parent.with_name("unisrec")
    model, pretraining = _pretrained(task, cache)
    model.requires_grad_(False)
    model.adaptor.requires_grad_(True)
    model.log_scale.requires_grad_(True)
    schedule = replace(
        _schedule(task),
        epochs=task.setting("epochs", 60),
        holdout_share=task.training.holdout_share,
        patience=task.setting("patience", 5),
        learning_rate=task.setting("learning_rate", UNISREC_RATE),
        batch_users=task.training.batch_users,
    )
    vectors = text_vectors(task.base, task.target, cache)
    report = fit_sequences(model, vectors, task.users, schedule)
    return Fitted(
        UniSRecScorer(model, vectors, schedule.history_limit),
        trained_parameters=report["trained_parameters"],
        head_parameters=model.log_scale.numel(),
        uses_sources=True,
        report={**report, "pretraining": pretraining},
    )


def _schedule(task: Task) -> Schedule:
    """Of the pre-training."""
    return Schedule(
        epochs=task.setting("pretraining_epochs", 20),
        batch_users=128,
        learning_rate=1e-3,
        patience=3,
        holdout_share=0.05,
        sampled_negatives=256,
        history_limit=HISTORY_LIMIT,
        seed=task.seed,
    )


def _pretrained(task: Task, cache: Path) -> tuple[UniSRec, dict[str, Any]]:
    """Read what earlier cells of the same sources, seed and settings have trained, or train it."""
    schedule = _schedule(task)
    every = task.setting("all_source_users", False)
    domains = [source.domain() for source in task.sources]
    parts = [_source_users(source, domain, every) for source, domain in zip(task.sources, domains, strict=True)]
    identity = {
        "format": _FORMAT,
        "base": load_base(task.base).digest,
        "schedule": asdict(schedule),
        "sources": [
            [domain.name, domain.fingerprint, len(users)] for domain, users in zip(domains, parts, strict=True)
        ],
        "users": hashlib.sha256(repr([users.user_ids for users in parts]).encode()).hexdigest(),
    }
    place = cache / f"pretrained-{_digest(identity)}"
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        texts = [text_vectors(task.base, domain, cache) for domain in domains]
        model = UniSRec(texts[0].shape[1], schedule.history_limit + 1, dim=_DIM, experts=_EXPERTS)
    if not place.is_dir():
        report = fit_sequences(model, torch.cat(texts), _joined(parts, [len(text) for text in texts]), schedule)
        _keep(place, model, {**identity, "report": report})
    model.load_state_dict(load_file(place / "model.safetensors"))
    record = json.loads((place / "report.json").read_text(encoding="utf-8"))
    return model, dict(record["report"])


def _source_users(source: Source, domain: Domain, every: bool) -> Sequences:
    users = domain.sequences("train")
    if every:
        return users
    known = source_users(source.adapter)
    chosen = [number for number, user in enumerate(users.user_ids) if user_hash(user) in known]
    if not chosen:
        raise ConfigError(
            f"none of the users that the adapter of {source.name!r} was trained on is in {source.data}: "
            "give the domain it was trained on, or set all_source_users"
        )
    return Sequences(tuple(users.user_ids[n] for n in chosen), tuple(users.rows[n] for n in chosen))


def _joined(parts: Sequence[Sequences], sizes: Sequence[int]) -> Sequences:
    """Several domains' users over one catalogue, the domains' items one after another."""
    offsets = np.cumsum([0, *sizes[:-1]])
    rows = [
        tuple(int(row + offset) for row in sequence)
        for users, offset in zip(parts, offsets, strict=True)
        for sequence in users.rows
    ]
    ids = [f"{number}/{user}" for number, users in enumerate(parts) for user in users.user_ids]
    return Sequences(tuple(ids), tuple(rows))


def _keep(place: Path, model: UniSRec, record: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, beside / "model.safetensors")
    (beside / "report.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    if not place.is_dir():  # another cell may have been faster
        beside.replace(place)


def text_vectors(base: str, domain: Domain, cache: Path) -> Float[Tensor, "item text"]:
    """Unit vectors of a catalogue's titles under the untrained base, encoded once and kept.

    Args:
        base: its name.
        domain: gives the titles.
        cache: folder to keep them in.
    """
    found = load_base(base)
    texts = item_texts(domain.texts)
    path = cache / f"text-{_digest({'format': _FORMAT, 'base': found.digest, 'texts': texts})}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        vectors = encode_titles(build_model(SourceEncoder(found)), texts)
        beside = Path(tempfile.mkdtemp(dir=cache)) / path.name
        save_file({"vectors": vectors.contiguous()}, beside)
        beside.replace(path)
        beside.parent.rmdir()
    return load_file(path)["vectors"]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
