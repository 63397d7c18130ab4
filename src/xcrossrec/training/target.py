"""Integration into a new domain: a small LoRA over the merged sources, or X-Cross's integrators, and a small head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from xcrossrec.arguments import checked
from xcrossrec.config import Integration, TrainingConfig, target_config
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import ModelError
from xcrossrec.models.adapters import ADAPTER_WEIGHTS, Adapter, base_of, read_adapter, read_manifest
from xcrossrec.models.base import Base
from xcrossrec.models.encoder import recipe_of, settings_in
from xcrossrec.models.files import file_digest
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.identity import AnyBase
from xcrossrec.models.kinds import build_model
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, matcher_of
from xcrossrec.models.pair_attention import choose_pair_attention
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.training.checkpoints import forget_checkpoints
from xcrossrec.training.day_one import with_day_one
from xcrossrec.training.loop import TrainingReport, fit, working
from xcrossrec.training.processes import Processes
from xcrossrec.training.purchases import with_purchases
from xcrossrec.training.source import domain_record, reading, source_users, training_record, with_head, write
from xcrossrec.training.trackers import Tracker
from xcrossrec.types import PairAttention, PairStart, Scoring


@checked
def train_target(
    domain: Domain,
    sources: Sequence[Path | str],
    out: Path | str,
    *,
    config: TrainingConfig | None = None,
    integration: Integration | None = None,
    base: AnyBase | None = None,
    strict: bool = False,
    budget: int | None = None,
    scoring: Scoring = "dual",
    pair_attention: PairAttention | None = None,
    purchases: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
    report_to: Tracker = "tensorboard",
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingReport:
    """Integrate source adapters into a new domain.

    Args:
        domain: the target; its train split is used, and its item text. A source of another text is taken with a
            warning.
        sources: at least two adapter folders over one base.
        out: the bundle's folder; checkpoints and logs go to ``<out>.training`` beside it.
        config: settings; None takes those of :func:`xcrossrec.config.target_config` for so many users.
        integration: how the sources become one model; None merges them, ``Integration("xcross", top_layers=None)`` is
            X-Cross as published.
        base: the sources' base, its folder or name; None looks for it (:func:`xcrossrec.models.adapters.base_of`).
        strict: refuse a source made elsewhere of which nothing but its shapes says that it belongs to the base.
        budget: number of target users, drawn by seed; None takes all.
        scoring: ``dual`` or ``pair``.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``; None takes what the sources agree
            on, else ``joint``.
        purchases: let a `dual` model know what these users bought (`xcrossrec.training.purchases.with_purchases`),
            lately, and what that has to do with purchases in other categories
            (`xcrossrec.training.day_one.with_day_one`).
        resume, overwrite, show_progress, report_to, callbacks: as for :func:`xcrossrec.train_source`.

    Raises:
        ModelError: fewer than two sources, or adapters that cannot be integrated.
        BaseMismatchError: adapters of different bases.
        DataError: no train split, or a budget larger than it.
        BundleError: ``out`` exists and may not be replaced.
        ConfigError: several GPUs are visible to one process, or no such tracker.
        MissingExtraError: the tracker is not installed.
    """
    out = Path(out)
    integration = integration or Integration()
    with working(out, overwrite, report_to) as work:
        every = domain.sequences("train")
        config = config or target_config(users=budget or len(every), scoring=scoring, integration=integration)
        users = every.take(budget, config.seed)
        torch.manual_seed(config.seed)  # of the pair head's projection and the target's LoRA
        model = build_target_model(
            sources, integration, base=base, strict=strict, scoring=scoring, pair_attention=pair_attention
        )
        model = with_head(reading(model, domain, list(map(Path, sources))), domain, config)
        told: Any = {"show_progress": show_progress, "report_to": report_to, "callbacks": callbacks}
        report = fit(model, domain, users, config, work, resume=resume, **told)

        def finished() -> TrainingReport:
            end, written = report, model
            if purchases and scoring == "dual":
                known = users if budget else domain.sequences("train", minimum=1)  # one purchase counts, too
                written, choice = with_purchases(model, domain, known, seed=config.seed)
                written = with_day_one(written, domain, known, seed=config.seed)
                end = replace(report, copurchase=choice)
            made_of = {"sources": list(map(_source_record, model[0].adapters)), "integration": asdict(integration)}
            manifest = {"kind": "target", "domain": domain_record(domain), **made_of}
            manifest |= {**training_record(config, budget, end), "parameters": count_parameters(written)}
            seen = frozenset().union(*(source_users(path) for path in sources))
            write(written, out, manifest, seen, overwrite=overwrite)
            forget_checkpoints(work)
            return end

        return Processes.here().by_first(finished)


def build_target_model(
    sources: Sequence[Path | str],
    integration: Integration,
    *,
    base: AnyBase | None = None,
    strict: bool = False,
    scoring: Scoring = "dual",
    pair_attention: PairAttention | None = None,
) -> Model:
    """Make an untrained integrated model: at first the mean of its sources, of their updates or of their states.

    A `dual` head starts from the mean of the sources' heads. A `pair` head has the form of its sources' heads, and
    starts from their mean where all have one form and were trained from one seed, so from one beginning; else afresh.
    """
    if len(sources) < 2:
        raise ModelError(f"integration needs at least 2 sources, got {len(sources)}: pass --source once more")
    folders = [Path(source) for source in sources]
    found = _as_sources_read(base_of(folders, base), folders)
    names = source_names(folders)
    adapters = [read_adapter(folder, found, name=n, strict=strict) for folder, n in zip(folders, names, strict=True)]
    manifests = [adapter.manifest for adapter in adapters] if scoring == "pair" else []
    trained = {m.get("pair_attention") if m.get("scoring") == "pair" else None for m in manifests}
    attention = choose_pair_attention(pair_attention or (trained.pop() if len(trained) == 1 else None), scoring)
    encoder: MergedEncoder | XCrossEncoder
    if integration.form == "merged":
        encoder = MergedEncoder(found, adapters, rank=integration.rank, pair_attention=attention)
    else:
        encoder = XCrossEncoder(found, adapters, top_layers=integration.top_layers, pair_attention=attention)
    start = pair_start_of(folders) if scoring == "pair" else "similarity"
    model = build_model(encoder, scoring=scoring, pair_start=start)
    inherit_head(model, folders)
    return model


def inherit_head(model: Model, folders: Sequence[Path]) -> None:
    """Start a model's head from the mean of its sources' heads, in place.

    The matcher takes the mean over the sources' matchers. A pair head takes the mean where all that
    the sources have are of its form and were trained from one seed: heads that began apart have no meaningful mean. A
    source without a head has no say.
    """
    own = matcher_of(model)
    matchers = [HistoryMatcher.load(str(path.parent), subfolder=path.name) for path in _heads(folders, HistoryMatcher)]
    if matchers:
        own.load_state_dict(_mean([matcher.state_dict() for matcher in matchers]))
    head = model[-1]
    if not isinstance(head, PairHead):
        return
    found = _pair_heads(folders)
    forms = {tuple(each.get_config_dict().items()) for each in (head, *(other for other, _ in found))}
    seeds = {seed for _, seed in found}
    if found and len(forms) == 1 and len(seeds) == 1 and None not in seeds:
        head.load_state_dict(_mean([other.state_dict() for other, _ in found]))


def pair_start_of(folders: Sequence[Path]) -> PairStart:
    """How the sources' pair heads started, if they agree; else from the ``similarity``."""
    starts = {head.starts for head, _ in _pair_heads(folders)}
    return starts.pop() if len(starts) == 1 else "similarity"


def _pair_heads(folders: Sequence[Path]) -> list[tuple[PairHead, Any]]:
    """The sources' pair heads, each with the seed of its training."""
    paths = _heads(folders, PairHead)
    heads = [PairHead.load(str(path.parent), subfolder=path.name) for path in paths]
    seeds = [(read_manifest(path.parent).get("training") or {}).get("seed") for path in paths]
    return list(zip(heads, seeds, strict=True))


def _heads(folders: Sequence[Path], kind: type) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob(f"*_{kind.__name__}"))]


def _mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}


def _as_sources_read(base: Base, folders: Sequence[Path]) -> Base:
    """The base with the recipe that all sources were trained with; those made elsewhere have none, and agree."""
    found = {folder: recipe_of(settings) for folder in folders if (settings := settings_in(folder))}
    if not found:
        return base
    (first, recipe), *rest = found.items()
    for folder, other in rest:
        if other != recipe:
            raise ModelError(f"{first} was trained with {recipe}, {folder} with {other}: train them alike")
    if recipe.dense != base.recipe.dense:
        ours, theirs = base.recipe.dense[:12] or "none", recipe.dense[:12] or "none"
        raise ModelError(
            f"{first} was trained with the Dense layers {theirs}, base {base.name!r} has {ours}: give the base that it "
            "was trained on"
        )
    return replace(base, recipe=recipe)


def source_names(folders: Sequence[Path]) -> list[str]:
    """Name each adapter by its domain, or by its folder; a repeated name gets a number."""
    names: list[str] = []
    for folder in folders:
        name = (read_manifest(folder).get("domain") or {}).get("name") or folder.resolve().name
        clean = "".join(c if c.isalnum() or c in "-_" else "-" for c in str(name)) or "source"
        folded = clean.casefold()  # each is a folder's name, which macOS does not tell apart by case
        count = sum(other.casefold().partition("~")[0] == folded for other in names)
        names.append(f"{clean}~{count + 1}" if count else clean)
    return names


def count_parameters(model: Model) -> dict[str, Any]:
    """Count parameters by part, from the live modules.

    Returns:
        ``integrators``, ``target_lora``, ``stream_weights``, ``head``, ``lora_per_source`` (a number if all sources
        have the same, else one by name), ``share`` (integrators and the target's LoRA over one source's LoRA, the
        largest if they differ), ``base``.
    """
    encoder = model[0]
    lora = {adapter.name: adapter.parameters for adapter in encoder.adapters}
    groups = encoder.parameter_groups()
    integrators, target_lora = groups.get("learning_rate", []), groups.get("target_learning_rate", [])
    scales = groups["head_learning_rate"]
    own = {id(p) for p in (*integrators, *target_lora, *scales)}
    return {
        "integrators": _count(integrators),
        "target_lora": _count(target_lora),
        "stream_weights": _count(scales),
        "head": sum(p.numel() for module in list(model)[1:] for p in module.parameters()),
        "lora_per_source": max(lora.values()) if len(set(lora.values())) == 1 else lora,
        "share": _count([*integrators, *target_lora]) / max(lora.values()),
        "base": sum(p.numel() for p in encoder.parameters() if id(p) not in own),
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _source_record(adapter: Adapter) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "text": adapter.manifest.get("text"),
        "domain": adapter.manifest.get("domain"),
        "training": adapter.manifest.get("training"),
        "digest": file_digest(adapter.path / ADAPTER_WEIGHTS),
        "parameters": adapter.parameters,
    }
