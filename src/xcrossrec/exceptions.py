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
    ├── MissingExtraError    (ImportError)  an optional dependency is absent; names its install line
    └── UnsupportedSystemError (ImportError)  neither Linux nor macOS

Every message says what failed, the value, what was expected and what to do.
The command line turns each of them into one sentence on stderr and exit status 2.
"""

from __future__ import annotations

from copyreg import __newobj__  # type: ignore[attr-defined]


class XCrossRecError(Exception):
    """Base of everything that xcrossrec raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:  # a worker may send it: made anew without its own __init__
        return __newobj__, (type(self), *self.args), self.__dict__


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


class UnsupportedSystemError(XCrossRecError, ImportError):
    """This system is neither Linux nor macOS."""


_LACKS = {
    "too many files are open: allow the process more (ulimit -n)": (
        *("Too many open files", "TooManyOpenFiles"),
        "unable to open database file",  # as SQLite says it
    ),
    "this user has no right to it: give it that (chmod, chown), or copy it": ("Permission denied",),
    "memory is used up: allow the process more, or free some": (
        *("MemoryError", "bad_alloc", "annot allocate memory", "can't allocate memory", "failed to map segment"),
        *("can't start new thread", "spawn threads", "launch worker thread", "WouldBlock"),
    ),
}


def lacking(error: BaseException) -> str | None:
    """What the system did not give where an error, or its cause, is of that, and the remedy; None for any other one."""
    said = f"{type(error).__name__}: {error}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    found = next((what for what, words in _LACKS.items() if any(word in said for word in words)), None)
    return found or (lacking(cause) if cause else None)


def not_read(path: object, error: BaseException) -> StorageError | None:
    """Tell a file that could not be read for want of descriptors, memory or rights from a damaged one (None)."""
    lack = lacking(error)
    return StorageError(f"{path} could not be read ({error}): {lack}; nothing is damaged") if lack else None
