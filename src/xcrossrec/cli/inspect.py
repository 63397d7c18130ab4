"""The command that shows the content of a model's folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcrossrec.cli.checks import check_model
from xcrossrec.cli.console import Base, Json, ModelDir, echo, prepare, progress_to_stderr

if TYPE_CHECKING:
    from xcrossrec.models.model import Model


def inspect(model: ModelDir, base: Base = None, as_json: Json = False) -> None:
    """Show a model's base, adapters, parameters and digests.

    Every file is verified by its digest, and so is the base. Parameters are counted from the loaded modules.
    """
    check_model(model, base)
    prepare("train")
    from xcrossrec.models import bundle

    with progress_to_stderr():
        manifest = bundle.read_bundle_manifest(model)
        found = describe(model, bundle.load(model, base=base), manifest)
    echo(found if as_json else as_text(found))


def describe(path: Path, model: Model, manifest: dict[str, Any]) -> dict[str, Any]:
    """Describe a model; parameters are counted, the rest comes from the verified folder."""
    domain = manifest.get("domain") or {}
    stated = ("kind", "scoring", "base", "prompt_version", "training", "metrics", "created")
    return {
        "path": str(path),
        "loaded_base": model[0].base_name,
        **{key: manifest.get(key) for key in (*stated, "xcrossrec_version")},
        "recipe": asdict(model[0].recipe),
        "integration": model[0].integration and asdict(model[0].integration),
        "adapters": _adapters(model, manifest, path),
        "parameters": _parameters(model),
        "purchases": _purchases(model),
        "text": model[0].text.template,
        "max_tokens": model[0].max_tokens,
        "domain": domain,
        "fingerprint": domain.get("fingerprint"),
        "digests": manifest.get("files", {}),
    }


def _parameters(model: Model) -> dict[str, Any]:
    from xcrossrec.training.target import count_parameters

    encoder, *head = model
    if encoder.adapters:
        return count_parameters(model)
    lora = sum(p.numel() for name, p in encoder.named_parameters() if "lora_" in name)
    own = sum(p.numel() for module in head for p in module.parameters())
    base = sum(p.numel() for p in encoder.parameters()) - lora
    return {"integrators": 0, "target_lora": 0, "lora_per_source": lora, "share": 0.0, "head": own, "base": base}


def _purchases(model: Model) -> dict[str, Any] | None:
    from xcrossrec.models.purchases import term_of

    if (term := term_of(model)) is None:
        return None
    return {"customers": term.counts.customers, "purchases": term.counts.purchases, "weights": dict(term.weights)}


def _adapters(model: Model, manifest: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    from xcrossrec.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
    from xcrossrec.models.base import load_base
    from xcrossrec.models.files import file_digest

    found, records = model[0].adapters, {record["name"]: record for record in manifest.get("sources", [])}
    if not found and (path / ADAPTER_CONFIG).exists():
        found = (read_adapter(path, load_base(model[0].base_name)),)
        records = {found[0].name: manifest}
    return [
        {
            "name": adapter.name,
            "rank": adapter.config.r,
            "alpha": adapter.config.lora_alpha,
            "target_modules": sorted(adapter.config.target_modules or ()),
            "parameters": adapter.parameters,
            "digest": file_digest(adapter.path / ADAPTER_WEIGHTS),
            **{key: records.get(adapter.name, {}).get(key) for key in ("domain", "training")},
        }
        for adapter in found
    ]


def as_text(found: dict[str, Any]) -> str:
    """A description as text."""
    from xcrossrec.evaluation.table import aligned
    from xcrossrec.models.recipe import Recipe

    base, parameters = found["base"], found["parameters"]
    here = f", here {found['loaded_base']}" if found["loaded_base"] != base["name"] else ""
    simulated = " (simulated users)" if found["domain"].get("simulated") else ""
    lines = [
        f"{found['path']}: {found['kind']}, {found['scoring']} scoring",
        f"base         {base['name']}  weights {base['digest'][:16]}{here}",
        f"domain       {found['domain'].get('name')}{simulated}  fingerprint {str(found['fingerprint'])[:16]}",
        f"reads        {found['text']}",
        f"prompts      version {found['prompt_version']}, at most {found['max_tokens']} tokens",
        f"recipe       {Recipe(**found['recipe'])}",
        f"made         {found['created']} by xcrossrec {found['xcrossrec_version']}, {len(found['digests'])} files "
        "match their digests",
    ]
    if found["integration"]:
        lines.append("integration  " + ", ".join(f"{key} {value}" for key, value in found["integration"].items()))
    if bought := found["purchases"]:
        weights = ", ".join(f"{rung} {weight:g}" for rung, weight in bought["weights"].items())
        counted = f"{bought['purchases']:,} of {bought['customers']:,} customers"
        lines.append(f"purchases    {counted}; weight beside the text by how many are known: {weights}")
    rows = [
        [
            each["name"],
            str(each["rank"]),
            ",".join(each["target_modules"]),
            f"{each['parameters']:,}",
            each["digest"][:16],
        ]
        for each in found["adapters"]
    ]
    lines += ["", *aligned(["adapter", "rank", "on", "parameters", "digest"], rows, text_columns=5)]
    parts = [[name, _number(value)] for name, value in parameters.items()]
    lines += ["", *aligned(["parameters", ""], parts, text_columns=2)]
    metrics = found["metrics"] or {}  # absent if a model only learned purchases
    if all(isinstance(metrics.get(name), int | float) for name in ("users", "epochs", "wall_s")):
        lines += ["", f"training     {metrics['users']} users, {metrics['epochs']:g} epochs, {metrics['wall_s']:.0f} s"]
    return "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return f"{value:,}"
