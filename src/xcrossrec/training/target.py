"""Integration into a new domain: only integrators, stream weights, a small head and, on request, a small LoRA train."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xcrossrec.config import DEFAULT_INTEGRATOR, DEFAULT_TOP_LAYERS, TrainingConfig, default_target_rank
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import BundleError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, read_adapter, read_manifest
from xcrossrec.models.base import DEFAULT_BASE, load_base
from xcrossrec.models.bundle import Model
from xcrossrec.models.encoder import IntegratedEncoder, SourceEncoder, default_lora
from xcrossrec.models.integrator import MERGED
from xcrossrec.models.pair_attention import choose_pair_attention
from xcrossrec.training.inheritance import inherit_head, pair_start_of
from xcrossrec.training.loop import TrainingReport, fit
from xcrossrec.training.source import (
    HEAD_PATTERNS,
    domain_record,
    refuse_existing,
    source_users,
    training_record,
    with_head,
    work_folder,
    write,
)
from xcrossrec.types import HistoryPooling, PairAttention, Scoring

BASE_STREAM = "base"
"""Name of the stream that is the base as it is."""

_HEAD_PATTERNS = (*HEAD_PATTERNS, r"stream_weight")


def train_target(
    domain: Domain,
    sources: Sequence[Path | str],
    out: Path | str,
    *,
    config: TrainingConfig,
    integrator: str = DEFAULT_INTEGRATOR,
    beta: float = 1.0,
    gamma: float = 1.0,
    base: str | None = None,
    budget: int | None = None,
    scoring: Scoring = "dual",
    pooling: HistoryPooling = "late",
    max_tokens: int | None = None,
    pair_attention: PairAttention | None = None,
    base_stream: bool = False,
    top_layers: int | None = DEFAULT_TOP_LAYERS,
    target_rank: int | None = None,
    target_layers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> TrainingReport:
    """Integrate source adapters into a new domain.

    Args:
        domain: the target; its train split is used.
        sources: at least two adapter folders over one base.
        out: the bundle's folder; checkpoints and logs go to ``<out>.training`` beside it.
        config: settings, from :func:`xcrossrec.config.target_config`.
        integrator: see :data:`xcrossrec.models.integrator.FORMS`; ``paper`` is X-Cross as published.
        beta: strength of what a stream takes from another.
        gamma: strength of the contrast term (paper's form).
        base: the base; None takes what the first adapter names.
        budget: number of target users, drawn by seed; None takes all.
        scoring: ``dual`` or ``pair``.
        pooling: ``prompt`` or ``late``.
        max_tokens: longest text.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``; None takes what the sources agree
            on, else the base's default.
        base_stream: add the base as it is as one more stream, so that integration can fall back on it; costs one
            more encoder pass a text.
        top_layers: number of last layers after which the streams are integrated; None takes all, as in the paper.
            Merged sources have no use for it.
        target_rank: rank of a LoRA of the target's own, trained beside the integrators and added to every stream;
            0 trains none, as in the paper; None takes :func:`xcrossrec.config.default_target_rank`.
        target_layers: number of last layers that have that LoRA; None for all.
        resume: continue an interrupted run.
        overwrite: replace an existing model at ``out``.
        show_progress: draw progress bars.

    Raises:
        ModelError: fewer than two sources, or adapters that cannot be stacked.
        BaseMismatchError: adapters of different bases.
        DataError: no train split, or a budget larger than it.
        BundleError: ``out`` exists and may not be replaced.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    users = domain.sequences("train").take(budget, config.seed)
    target_rank = default_target_rank(integrator) if target_rank is None else target_rank
    top_layers = None if integrator == MERGED else top_layers
    with _streams(sources, base, config.seed, base_stream) as streams:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # of the pair head's projection and the target's LoRA
            model = build_target_model(
                streams,
                integrator=integrator,
                beta=beta,
                gamma=gamma,
                base=base,
                scoring=scoring,
                pooling=pooling,
                max_tokens=max_tokens,
                pair_attention=pair_attention,
                top_layers=top_layers,
                target_rank=target_rank,
                target_layers=target_layers,
            )
        model = with_head(model, domain, config)
        report = fit(
            model,
            domain,
            users,
            config,
            work_folder(out),
            head_patterns=_HEAD_PATTERNS,
            resume=resume,
            show_progress=show_progress,
        )
        seen = frozenset().union(*(source_users(path) for path in sources))
        manifest = {
            "kind": "x-cross",
            "domain": domain_record(domain),
            "sources": [_source_record(adapter) for adapter in model[0].adapters],
            "integration": {
                "integrator": integrator,
                "beta": beta,
                "gamma": gamma,
                "base_stream": base_stream,
                "top_layers": top_layers,
                "target_rank": target_rank,
                "target_layers": target_layers,
            },
            **training_record(config, budget, report),
            "parameters": count_parameters(model),
        }
        write(model, out, manifest, seen, overwrite=overwrite)
    return report


@contextmanager
def _streams(
    sources: Sequence[Path | str], base: str | None, seed: int, base_stream: bool
) -> Iterator[list[Path | str]]:
    """Give the adapters to integrate; with a stream of the base, an adapter that changes nothing is written for it."""
    if not base_stream or not sources:
        yield list(sources)
        return
    with tempfile.TemporaryDirectory(prefix="xcrossrec-") as scratch:
        folder = Path(scratch) / BASE_STREAM
        write_unchanged_adapter(folder, base or _named_base(Path(sources[0])), seed)
        yield [*sources, folder]


def write_unchanged_adapter(folder: Path, base: str, seed: int) -> None:
    """Write LoRA before its first step: an adapter that leaves the base as it is.

    Args:
        folder: to make.
        base: the base's name.
        seed: of the factors that meet the zeros.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = SourceEncoder(load_base(base), default_lora())
    folder.mkdir(parents=True)
    encoder.save(str(folder))


def build_target_model(
    sources: Sequence[Path | str],
    *,
    integrator: str = "paper",
    beta: float = 1.0,
    gamma: float = 1.0,
    base: str | None = None,
    scoring: Scoring = "dual",
    pooling: HistoryPooling = "late",
    max_tokens: int | None = None,
    pair_attention: PairAttention | None = None,
    top_layers: int | None = None,
    target_rank: int = 0,
    target_layers: int | None = None,
) -> Model:
    """Make an untrained integrated model: at first exactly the mean of its sources' states.

    A `dual` head starts from the mean of the sources' heads, where they pool alike. A `pair` head has the form
    of its sources' heads, and starts from their mean where all have one form and were trained from one seed, so
    from one beginning; else afresh.
    """
    if len(sources) < 2:
        raise ModelError(f"integration needs at least 2 sources, got {len(sources)}: pass --source once more")
    folders = [Path(source) for source in sources]
    for folder in folders:
        if not folder.is_dir():
            raise BundleError(f"adapter folder {str(folder)!r} does not exist: check the path")
    found = load_base(base or _named_base(folders[0]))
    adapters = [
        read_adapter(folder, found, name=name) for folder, name in zip(folders, source_names(folders), strict=True)
    ]
    wanted = pair_attention or (_common_attention(adapters) if scoring == "pair" else None)
    encoder = IntegratedEncoder(
        found,
        adapters,
        integrator=integrator,
        beta=beta,
        gamma=gamma,
        max_tokens=max_tokens,
        pair_attention=choose_pair_attention(wanted, scoring, found.backbone),
        top_layers=top_layers,
        target_rank=target_rank,
        target_layers=target_layers,
    )
    start = pair_start_of(folders) if scoring == "pair" else "similarity"
    model = bundle.build_model(encoder, scoring=scoring, pooling=pooling, pair_start=start)
    inherit_head(model, folders)
    return model


def _common_attention(adapters: Sequence[Adapter]) -> PairAttention | None:
    """The pair attention that all sources were trained with, if they agree."""
    found = {adapter.manifest.get("pair_attention") for adapter in adapters}
    return found.pop() if len(found) == 1 else None


def source_names(folders: Sequence[Path]) -> list[str]:
    """Name each adapter by its domain, or by its folder; a repeated name gets a number."""
    names: list[str] = []
    for folder in folders:
        name = read_manifest(folder).get("domain", {}).get("name") or folder.resolve().name
        clean = "".join(c if c.isalnum() or c in "-_" else "-" for c in str(name)) or "source"
        count = sum(other == clean or other.startswith(f"{clean}~") for other in names)
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
    integrators = [p for module in encoder.integrators for p in module.parameters()]
    target_lora = [p for lora in encoder.target_loras.values() for p in lora.parameters()]
    own = {id(p) for p in (*integrators, *target_lora, encoder.stream_weight)}
    head = sum(p.numel() for module in list(model)[1:] for p in module.parameters())
    return {
        "integrators": _count(integrators),
        "target_lora": _count(target_lora),
        "stream_weights": encoder.stream_weight.numel(),
        "head": head,
        "lora_per_source": max(lora.values()) if len(set(lora.values())) == 1 else lora,
        "share": _count([*integrators, *target_lora]) / max(lora.values()),
        "base": sum(p.numel() for p in encoder.parameters() if id(p) not in own),
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _named_base(folder: Path) -> str:
    if named := read_manifest(folder).get("base"):
        return str(named["name"])
    config = folder / ADAPTER_CONFIG
    if not config.exists():
        raise BundleError(
            f"{folder} is no adapter: it has no {ADAPTER_CONFIG}; train one with `xcrossrec train source`"
        )
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{config} is not valid JSON ({error}): copy or train the adapter again") from error
    named = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    return str(named or DEFAULT_BASE)


def _source_record(adapter: Adapter) -> dict[str, Any]:
    weights = (adapter.path / ADAPTER_WEIGHTS).read_bytes()
    return {
        "name": adapter.name,
        "domain": adapter.manifest.get("domain"),
        "training": adapter.manifest.get("training"),
        "digest": hashlib.sha256(weights).hexdigest(),
        "parameters": adapter.parameters,
    }
