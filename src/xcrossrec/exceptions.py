"""The exceptions that xcrossrec raises on purpose.

    XCrossRecError
    ├── DataError            (ValueError)   bad or missing input data; names the value and the remedy
    │   └── UnknownItemError                an item id that the catalogue lacks
    ├── ConfigError          (ValueError)   a setting outside its range, or unknown
    ├── ModelError           (ValueError)   a model or adapter that cannot be used
    │   └── BundleError                     a folder on disk is incomplete, corrupt or foreign
    │       └── BaseMismatchError           it belongs to another base model
    ├── StorageError         (OSError)      the disk refuses a write: full, read-only or faulty; nothing was changed
    ├── UnavailableError     (OSError)      a database does not answer; ask again
    └── MissingExtraError    (ImportError)  an optional dependency is absent; names its install line

Every message says what failed, the value, what was expected and what to do.
The command line turns each of them into one sentence on stderr and exit status 2.
"""

from __future__ import annotations


class XCrossRecError(Exception):
    """Base of everything that xcrossrec raises on purpose."""


class DataError(XCrossRecError, ValueError):
    """Input data are missing, malformed or inconsistent."""


class UnknownItemError(DataError):
    """An item id that the catalogue lacks."""


class ConfigError(XCrossRecError, ValueError):
    """A setting is unknown or outside its range."""


class OtherRunError(ConfigError):
    """Where a training would go on there is none, or one of other settings."""


class ModelError(XCrossRecError, ValueError):
    """A model or an adapter cannot be used as asked."""


class BundleError(ModelError):
    """A model folder is incomplete, corrupt, foreign or unsafe."""


class NoCatalogueError(BundleError):
    """No catalogue is there."""


class BaseMismatchError(BundleError):
    """Adapters, or a bundle, were trained on another base model."""


class StorageError(XCrossRecError, OSError):
    """The disk refuses a write; nothing was changed by it."""


class UnavailableError(XCrossRecError, OSError):
    """A database does not answer, or a connection to it was lost; it may be asked again."""


class MissingExtraError(XCrossRecError, ImportError):
    """An optional dependency is not installed.

    Args:
        module: the module that could not be imported.
        extra: the extra of this distribution that brings it; None where it is a package of its own.
    """

    def __init__(self, module: str, extra: str | None) -> None:
        install = module if extra is None else f"'xcrossrec[{extra}]'"
        super().__init__(f"this needs {module!r}, which is not installed: run  pip install {install}")
