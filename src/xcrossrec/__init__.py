"""Recommend in a new domain by integrating domain-specific language models.

The names below are imported when they are first used, so ``import xcrossrec`` needs neither torch nor time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xcrossrec._version import __version__

_BY_MODULE = (  # module, the extra that it needs (None: the base install is enough), its public names
    ("xcrossrec.data", None, "Domain build_domain read_domain with_shared_users write_domain"),
    ("xcrossrec.data.market", None, "sample_market"),
    ("xcrossrec.scoring", None, "Scorer"),
    ("xcrossrec.evaluation", None, "Evaluation compare evaluate"),
    ("xcrossrec.config", None, "Integration TrainingConfig rival_config source_config target_config"),
    ("xcrossrec.models.bundle", "models", "load"),
    ("xcrossrec.training.source", "train", "train_source"),
    ("xcrossrec.training.target", "train", "train_target"),
    ("xcrossrec.recommender.learn", "models", "learn"),
    ("xcrossrec.export.exporting", "models", "export_model"),
    ("xcrossrec.adaptation.run", "train", "adapt"),
    ("xcrossrec.baselines.named", "train", "scorer_for"),
    ("xcrossrec.baselines.bases", "models", "compare_bases"),
    ("xcrossrec.answers", None, "Explanation Recommendation"),
    ("xcrossrec.recommender", "models", "Item Recommender"),
    ("xcrossrec.exceptions", None, "BaseMismatchError BundleError ConfigError DataError MissingExtraError ModelError"),
    ("xcrossrec.exceptions", None, "XCrossRecError"),
)
_PUBLIC = {name: (module, extra) for module, extra, names in _BY_MODULE for name in names.split()}

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
