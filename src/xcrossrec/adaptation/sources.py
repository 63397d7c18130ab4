"""The established categories: domains, whose adapters are trained where they are missing, or adapters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from xcrossrec.adaptation.candidates import Made, Plan, read_text, train_missing
from xcrossrec.adaptation.decision import Source
from xcrossrec.adaptation.judge import Judge
from xcrossrec.adaptation.shop import Shop
from xcrossrec.config import source_config
from xcrossrec.data import read_domain
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import BundleError, ConfigError, DataError
from xcrossrec.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, base_of, read_manifest
from xcrossrec.models.base import load_base
from xcrossrec.models.files import Settings, file_digest, read_settings
from xcrossrec.training.places import RUN_FILE, work_folder

_CUT = 0.04
"""What it costs to cut a text into tokens, in readings of it."""

AnySource: TypeAlias = Domain | Path | str
"""A domain, its folder, or an adapter's folder."""


@dataclass(frozen=True)
class Given:
    """A source that was given.

    Attributes:
        folder: of its adapter, which may not be there yet.
        domain: to train it on; None where an adapter was given.
        path: as it was given.
    """

    name: str
    folder: Path
    domain: Domain | None
    path: str


def read_sources(given: Sequence[AnySource], target: Domain, out: Path) -> list[Given]:
    """Find out what sources are.

    Args:
        target: that none of them may be.
        out: where adapters that are missing will be kept.

    Raises:
        ConfigError: a source is the target, or two have one name.
        DataError: no such domain, or a damaged one, or one that has fewer than two users to train on.
        BundleError: neither a domain nor an adapter that xcrossrec made.
    """
    found = [_read(each, out) for each in given]
    for each in found:
        record = each.domain.fingerprint if each.domain else read_manifest(each.folder)["domain"]["fingerprint"]
        if each.name == target.name or record == target.fingerprint:
            raise ConfigError(
                f"source {each.path} is the target, {target.name!r}: a source is another category; leave it out, or "
                "import one of them under another name (data import --domain)"
            )
        if each.domain is not None and (users := len(each.domain.sequences("train"))) < 2:
            raise DataError(
                f"source {each.name!r} has too few users to train on: its train split has {users} with two purchases "
                "or more, expected 2; import more purchases, or leave it out"
            )
    names = [each.name.casefold() for each in found]  # of folders, which macOS does not tell apart by case
    if twice := [name for name in names if names.count(name) > 1]:
        remedy = "give each category once, and each its own name (data import --domain)"
        raise ConfigError(f"two sources are called {twice[0]!r}: {remedy}")
    return found


def _read(given: AnySource, out: Path) -> Given:
    if isinstance(given, Domain):
        return Given(_clean(given.name), out / _clean(given.name), given, "")
    path = Path(given)
    if not (path / ADAPTER_CONFIG).exists():
        domain = read_domain(path)
        return Given(_clean(domain.name), out / _clean(domain.name), domain, str(path.resolve()))
    manifest = read_manifest(path)
    if manifest.get("scoring") != "dual" or not manifest.get("domain"):
        raise BundleError(
            f"source {path} is not an adapter that `xcrossrec train source` made for dual scoring: give such an "
            "adapter, or the category's own domain, on which one is then trained"
        )
    return Given(_clean(manifest["domain"]["name"]), path.resolve(), None, str(path.resolve()))


def _clean(name: str) -> str:
    return re.sub(r"[^\w-]", "-", name) or "source"


def ready(each: Given, shop: Shop, base: str, plan: Plan, seconds: float) -> Made | None:
    """Take a source's adapter, or train it on as many of its users as the seconds that it may take allow.

    None where they are too few for 200 users, or all that there are.
    """
    if each.domain is not None and not _is_of(each.folder, each.domain, base):
        config = source_config(**{"seed": shop.seed, **plan.source})
        users = len(each.domain.sequences("train"))
        lengths = each.domain.frame("train").height / max(users, 1)
        cost = shop.pace.reading(1) * shop.pace.training * config.epochs * (lengths + 1)
        first = shop.pace.reading(each.domain.items.height) * _CUT  # whoever is trained on
        allowed = int(max(seconds - first, 0.0) / cost) if cost else 0
        if allowed < min(users, 200):
            return None
        budget: int | None = min(users, plan.source_users, allowed)
        if (place := work_folder(each.folder) / RUN_FILE).exists():
            begun = read_settings(place, Settings)
            budget = begun["users"] if begun.get("fingerprint") == each.domain.fingerprint else budget
        shop.bar.at(len(shop.found), shop.planned, f"training {each.name} on {budget:,} of {users:,} users")
        train_missing(each.domain, each.folder, base, config, None if budget == users else budget)
    return Made(each.name, each.folder, file_digest(each.folder / ADAPTER_WEIGHTS))


def _is_of(folder: Path, domain: Domain, base: str) -> bool:
    """Whether an adapter of a domain on a base is there."""
    if not (folder / MANIFEST).exists():
        return False
    found = read_manifest(folder)
    return bool(
        found["domain"]["fingerprint"] == domain.fingerprint and found["base"]["digest"] == load_base(base).digest
    )


def judge_sources(
    target: Domain | Path | str, given: Sequence[AnySource], *, base: str | None = None
) -> tuple[list[Source], int]:
    """Say which adapters help, and how many users were asked: at most 300 of the target's, and nothing is trained.

    ``base`` is that of the adapters; None looks for it. Errors are those of :func:`read_sources`, and BundleError for a
    source without an adapter.
    """
    domain = target if isinstance(target, Domain) else read_domain(target)
    found = read_sources(given, domain, Path())
    if untrained := [each.path for each in found if each.domain is not None]:
        raise BundleError(
            f"{untrained[0]} is a domain without an adapter: train one with `xcrossrec train source`, or let "
            "`xcrossrec adapt` do that"
        )
    base = base or base_of([each.folder for each in found]).name
    judge = Judge(domain, seed=0)
    judge.ask("", read_text(domain, (), base))
    made = [Made(each.name, each.folder, "") for each in found]
    for each in made:
        judge.ask(each.name, read_text(domain, [each], base))
    return judge.described(made, {}), len(judge.users)
