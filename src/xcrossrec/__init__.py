"""Recommend in a new domain by integrating domain-specific language models.

The names below are imported when they are first used, so ``import xcrossrec`` needs neither torch nor time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xcrossrec._version import __version__ as __version__

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

if TYPE_CHECKING:  # each under its own name, which is how type checkers know what is public
    from xcrossrec.adaptation.run import adapt as adapt
    from xcrossrec.answers import Explanation as Explanation
    from xcrossrec.answers import Recommendation as Recommendation
    from xcrossrec.baselines.bases import compare_bases as compare_bases
    from xcrossrec.baselines.named import scorer_for as scorer_for
    from xcrossrec.config import Integration as Integration
    from xcrossrec.config import TrainingConfig as TrainingConfig
    from xcrossrec.config import rival_config as rival_config
    from xcrossrec.config import source_config as source_config
    from xcrossrec.config import target_config as target_config
    from xcrossrec.data import Domain as Domain
    from xcrossrec.data import build_domain as build_domain
    from xcrossrec.data import read_domain as read_domain
    from xcrossrec.data import with_shared_users as with_shared_users
    from xcrossrec.data import write_domain as write_domain
    from xcrossrec.data.market import sample_market as sample_market
    from xcrossrec.evaluation import Evaluation as Evaluation
    from xcrossrec.evaluation import compare as compare
    from xcrossrec.evaluation import evaluate as evaluate
    from xcrossrec.exceptions import BaseMismatchError as BaseMismatchError
    from xcrossrec.exceptions import BundleError as BundleError
    from xcrossrec.exceptions import ConfigError as ConfigError
    from xcrossrec.exceptions import DataError as DataError
    from xcrossrec.exceptions import MissingExtraError as MissingExtraError
    from xcrossrec.exceptions import ModelError as ModelError
    from xcrossrec.exceptions import XCrossRecError as XCrossRecError
    from xcrossrec.export.exporting import export_model as export_model
    from xcrossrec.models.bundle import load as load
    from xcrossrec.recommender import Item as Item
    from xcrossrec.recommender import Recommender as Recommender
    from xcrossrec.recommender.learn import learn as learn
    from xcrossrec.scoring import Scorer as Scorer
    from xcrossrec.training.source import train_source as train_source
    from xcrossrec.training.target import train_target as train_target

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    AttributeError: no public name. MissingExtraError: an extra is not installed; names the install line.
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
