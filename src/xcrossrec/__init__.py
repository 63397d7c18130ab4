"""Recommend in a new domain by integrating domain-specific language models.

The names below are imported when they are first used, so ``import xcrossrec`` needs neither torch nor time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xcrossrec._version import __version__

# name -> (module, extra that the module needs; None = the base install is enough)
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "Domain": ("xcrossrec.data", None),
    "build_domain": ("xcrossrec.data", None),
    "read_domain": ("xcrossrec.data", None),
    "with_shared_users": ("xcrossrec.data", None),
    "write_domain": ("xcrossrec.data", None),
    "sample_market": ("xcrossrec.data.market", None),
    "Scorer": ("xcrossrec.scoring", None),
    "Evaluation": ("xcrossrec.evaluation", None),
    "compare": ("xcrossrec.evaluation", None),
    "evaluate": ("xcrossrec.evaluation", None),
    "Integration": ("xcrossrec.config", None),
    "TrainingConfig": ("xcrossrec.config", None),
    "rival_config": ("xcrossrec.config", None),
    "source_config": ("xcrossrec.config", None),
    "target_config": ("xcrossrec.config", None),
    "load": ("xcrossrec.models.bundle", "models"),
    "train_source": ("xcrossrec.training.source", "train"),
    "train_target": ("xcrossrec.training.target", "train"),
    "learn": ("xcrossrec.recommender.learn", "models"),
    "export_model": ("xcrossrec.export.exporting", "models"),
    "adapt": ("xcrossrec.adaptation.run", "train"),
    "scorer_for": ("xcrossrec.baselines.named", "train"),
    "compare_bases": ("xcrossrec.baselines.bases", "models"),
    "Explanation": ("xcrossrec.answers", None),
    "Item": ("xcrossrec.recommender", "models"),
    "Recommendation": ("xcrossrec.answers", None),
    "Recommender": ("xcrossrec.recommender", "models"),
    "BaseMismatchError": ("xcrossrec.exceptions", None),
    "BundleError": ("xcrossrec.exceptions", None),
    "ConfigError": ("xcrossrec.exceptions", None),
    "DataError": ("xcrossrec.exceptions", None),
    "MissingExtraError": ("xcrossrec.exceptions", None),
    "ModelError": ("xcrossrec.exceptions", None),
    "XCrossRecError": ("xcrossrec.exceptions", None),
}

if TYPE_CHECKING:
    from xcrossrec.adaptation.run import adapt
    from xcrossrec.answers import Explanation, Recommendation
    from xcrossrec.baselines.bases import compare_bases
    from xcrossrec.baselines.named import scorer_for
    from xcrossrec.config import Integration, TrainingConfig, rival_config, source_config, target_config
    from xcrossrec.data import Domain, build_domain, read_domain, with_shared_users, write_domain
    from xcrossrec.data.market import sample_market
    from xcrossrec.evaluation import Evaluation, compare, evaluate
    from xcrossrec.exceptions import (
        BaseMismatchError,
        BundleError,
        ConfigError,
        DataError,
        MissingExtraError,
        ModelError,
        XCrossRecError,
    )
    from xcrossrec.export.exporting import export_model
    from xcrossrec.models.bundle import load
    from xcrossrec.recommender import Item, Recommender
    from xcrossrec.recommender.learn import learn
    from xcrossrec.scoring import Scorer
    from xcrossrec.training.source import train_source
    from xcrossrec.training.target import train_target

__all__ = [
    "BaseMismatchError",
    "BundleError",
    "ConfigError",
    "DataError",
    "Domain",
    "Evaluation",
    "Explanation",
    "Integration",
    "Item",
    "MissingExtraError",
    "ModelError",
    "Recommendation",
    "Recommender",
    "Scorer",
    "TrainingConfig",
    "XCrossRecError",
    "__version__",
    "adapt",
    "build_domain",
    "compare",
    "compare_bases",
    "evaluate",
    "export_model",
    "learn",
    "load",
    "read_domain",
    "rival_config",
    "sample_market",
    "scorer_for",
    "source_config",
    "target_config",
    "train_source",
    "train_target",
    "with_shared_users",
    "write_domain",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises:
        AttributeError: no public name.
        MissingExtraError: the extra that it needs is not installed; names the install line.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xcrossrec' has no attribute {name!r}")
    module, extra = _PUBLIC[name]
    if extra is not None:
        import_module("xcrossrec.extras").require(extra)
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
