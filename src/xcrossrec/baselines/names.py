"""Names of scorers on the command line; checked without heavy imports."""

from __future__ import annotations

from pathlib import Path

from xcrossrec.exceptions import BundleError, ConfigError

BASELINES = ("popularity", "tfidf", "itemknn", "untrained", "centered")
"""What may follow ``baseline:``."""

PREFIX = "baseline:"

COUNTING = ("baseline:popularity", "baseline:itemknn")
"""Those that count purchases and do not read the items' texts."""


def parts_of(spec: str) -> tuple[str, ...]:
    """Split the name of a scorer.

    Returns:
        the baseline with its prefix, or folders of models, several for a mean.

    Raises:
        ConfigError: an unknown baseline, or one that cannot be part of a mean.
        BundleError: no such folder.
    """
    known = ", ".join(PREFIX + name for name in BASELINES)
    if spec.startswith(PREFIX):
        if spec.removeprefix(PREFIX) not in BASELINES:
            raise ConfigError(f"unknown baseline {spec.removeprefix(PREFIX)!r}: choose one of {known}")
        return (spec,)
    parts = (spec,) if Path(spec).exists() or "+" not in spec else tuple(spec.split("+"))
    if len(parts) > 1 and (bad := [part for part in parts if part.startswith(PREFIX) or not part]):
        raise ConfigError(f"{bad[0]!r} in {spec!r} cannot be part of a mean: join folders of adapters, as in a+b")
    for part in parts:
        if not Path(part).is_dir():
            raise BundleError(
                f"{part!r} is no model: there is no such folder; give the folder of a bundle or an adapter, several "
                f"adapters joined by +, or one of {known}"
            )
    return parts
