"""LoRA on one domain: a source model for integration, or the rival on the target."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import TrainerCallback

from xcrossrec.arguments import checked
from xcrossrec.config import TrainingConfig, source_config
from xcrossrec.copurchase import user_hash
from xcrossrec.data.domain import Domain
from xcrossrec.data.store import read_parquet
from xcrossrec.exceptions import BundleError, ConfigError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.base import DEFAULT_BASE, Base, load_base, with_choices
from xcrossrec.models.encoder import text_of
from xcrossrec.models.identity import AnyBase
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.pair_attention import choose_pair_attention
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.checkpoints import forget_checkpoints
from xcrossrec.training.loop import TrainingReport, fit, uses_bfloat16, working
from xcrossrec.training.processes import Processes
from xcrossrec.training.purchases import with_purchases
from xcrossrec.training.trackers import Tracker
from xcrossrec.types import PairAttention, PairStart, PoolingMode, Scoring, Split

TRAINING_USERS = "training_users.parquet"

_log = logging.getLogger(__name__)


@checked
def train_source(
    domain: Domain,
    out: Path | str,
    *,
    config: TrainingConfig | None = None,
    base: AnyBase | None = None,
    init: Path | str | None = None,
    budget: int | None = None,
    rank: int = 8,
    scoring: Scoring = "dual",
    pair_attention: PairAttention | None = None,
    pair_start: PairStart = "similarity",
    pooling: PoolingMode | None = None,
    history_prompt: str | None = None,
    item_prompt: str | None = None,
    target_modules: Sequence[str] | None = None,
    purchases: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
    report_to: Tracker = "tensorboard",
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingReport:
    """Fine-tune one LoRA adapter on a domain's training users.

    Args:
        domain: its train split is used, and its item text: the model reads that of every catalogue.
        out: the adapter's folder; checkpoints and logs go to ``<out>.training`` beside it.
        config: settings; None takes those of :func:`xcrossrec.config.source_config`.
        base: a base, its folder or name (:func:`xcrossrec.models.base.load_base`); None takes the embedded one, or
            looks for that of ``init``.
        init: start from this adapter instead of a fresh one (its base and its recipe, layers, rank, scoring and pair
            attention hold).
        budget: number of users, drawn by seed; None takes all.
        rank: LoRA's r.
        scoring: ``dual`` or ``pair``.
        pair_attention: which tokens of a pair see each other, ``joint`` or ``shared``; None takes ``joint``.
        pair_start: whether a `pair` head starts from the ``similarity``, or ``fresh`` as in the paper.
        pooling: how token states become a text's vector (`dual`); None takes that of the base's folder.
        history_prompt: put before a history's items; None takes that of the base's folder.
        item_prompt: put before an item that is scored; likewise.
        target_modules: names of the linear layers to adapt; None takes query and value.
        purchases: let a `dual` model know what these users bought, as the rival of a target's does.
        resume: continue an interrupted run.
        overwrite: replace an existing model at ``out``.
        show_progress: draw progress bars.
        report_to: tracker of losses and rates; TensorBoard's logs are in ``<out>.training``.
        callbacks: further callbacks of the trainer (transformers).

    Raises:
        DataError: no train split, or a budget larger than it.
        BundleError: ``out`` exists and may not be replaced.
        ConfigError: pooling, prompts or layers beside ``init``, or a pooling for `pair`; several GPUs are visible to
            one process; or no such tracker.
        MissingExtraError: the tracker is not installed.
        ModelError: layers that the base does not have.
    """
    out, config = Path(out), config or source_config()
    with working(out, overwrite, report_to) as work:
        users = domain.sequences("train").take(budget, config.seed)
        chosen = {"pooling": pooling, "history_prompt": history_prompt, "item_prompt": item_prompt}
        _refuse_choices({**chosen, "target_modules": target_modules}, init, scoring)
        if init is None:
            found = with_choices(base if isinstance(base, Base) else load_base(str(base or DEFAULT_BASE)), **chosen)
            attention = choose_pair_attention(pair_attention, scoring)
            torch.manual_seed(config.seed)
            encoder = SourceEncoder(found, default_lora(rank, target_modules), pair_attention=attention)
            model = build_model(encoder, scoring=scoring, pair_start=pair_start)
        else:
            model = _started_model(init, base)
        model = with_head(reading(model, domain, [Path(init)] if init else []), domain, config)
        told: Any = {"show_progress": show_progress, "report_to": report_to, "callbacks": callbacks}
        report = fit(model, domain, users, config, work, resume=resume, **told)

        def finished() -> TrainingReport:
            end, written = report, model
            if purchases and kind_of(model).name == "dual":
                known = users if budget else domain.sequences("train", minimum=1)  # one purchase counts, too
                written, choice = with_purchases(model, domain, known, seed=config.seed)
                end = replace(report, copurchase=choice)
            lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
            manifest = {"kind": "adapter", "domain": domain_record(domain), "init": str(init) if init else None}
            manifest |= {**training_record(config, budget, end), "parameters": {"lora": lora}}
            seen = user_hashes(users.user_ids) | (source_users(init) if init else frozenset())
            write(written, out, manifest, seen, overwrite=overwrite)
            forget_checkpoints(work)
            return end

        return Processes.here().by_first(finished)


def with_head(model: Model, domain: Domain, config: TrainingConfig) -> Model:
    """Add the configured parts of a `dual` model's head; before training, only the center has an effect."""
    kind = kind_of(model)
    model = kind.with_projection(model, config.projection_rank, config.seed)
    if not config.center:
        return model
    return kind.centered(model, domain.texts, precision="bf16" if uses_bfloat16(config) else "fp32")


def reading(model: Model, domain: Domain, made_of: Sequence[Path]) -> Model:
    """Let a model read a domain's item text, in place; warn of adapters in it that were trained on another text. Those
    made elsewhere do not record theirs."""
    for folder in made_of:
        former = text_of(folder)
        if former not in (None, domain.text):
            _log.warning(
                "%s was trained on the item text '%s', and reads '%s' of %s now: it may know less of these texts; "
                "where its own data have the columns, import them with the same --text and train it again",
                *(folder, former, domain.text, domain.name),
            )
    encoder_of(model).text = domain.text
    return model


def _refuse_choices(chosen: Mapping[str, Any], init: Path | str | None, scoring: Scoring) -> None:
    """Refuse options that would be ignored."""
    named = [name for name, value in chosen.items() if value is not None]
    if init and named:
        raise ConfigError(f"{named[0]} belongs to a fresh adapter, {init} has its own: leave it out, or leave out init")
    if scoring == "pair" and "pooling" in named:
        raise ConfigError("pooling belongs to dual scoring: a pair model reads the states of tokens; leave it out")


def _started_model(init: Path | str, base: AnyBase | None) -> Model:
    """The adapter to start from."""
    model = bundle.load(init, base=base, trainable=True)
    encoder = encoder_of(model)
    if not isinstance(encoder, SourceEncoder) or not encoder.has_adapter:
        raise ModelError(f"{init} is no single LoRA adapter: start from one that `train source` wrote")
    return model


def domain_record(domain: Domain) -> dict[str, Any]:
    """What a manifest says of the data."""
    return {
        "name": domain.name,
        "fingerprint": domain.fingerprint,
        "simulated": bool(domain.manifest.get("simulated", False)),
        "items": domain.items.height,
    }


def training_record(config: TrainingConfig, budget: int | None, report: TrainingReport) -> dict[str, Any]:
    """What a manifest says of a run."""
    return {"training": {**asdict(config), "budget": budget}, "metrics": asdict(report)}


def write(model: Model, out: Path, manifest: Mapping[str, Any], users: frozenset[str], *, overwrite: bool) -> None:
    """Save a trained model together with the hashed ids of the users it has seen."""
    frame = pl.DataFrame({"user": sorted(users)}, schema={"user": pl.String})
    bundle.save(model, out, manifest, overwrite=overwrite, tables={TRAINING_USERS: frame})


def user_hashes(user_ids: Iterable[str]) -> frozenset[str]:
    """Hash several user ids."""
    return frozenset(map(user_hash, user_ids))


def source_users(path: Path | str) -> frozenset[str]:
    """Hashed ids of the users that a model's sources were trained on (the target's own left out)."""
    file = Path(path) / TRAINING_USERS
    if not file.exists():
        return frozenset()
    frame = read_parquet(file, remedy="copy or train the model again")
    if dict(frame.schema) != {"user": pl.String}:
        raise BundleError(f"{file} holds other columns than 'user': copy or train the model again")
    return frozenset(frame["user"])


def seen_users(path: Path | str, domain: Domain, split: Split) -> frozenset[str]:
    """The users of a split that some source of a model has seen in training."""
    known = source_users(path)
    return frozenset(user for user in domain.sequences(split).user_ids if user_hash(user) in known)
