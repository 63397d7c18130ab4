"""The exceptions that xcrossrec raises on purpose.

    XCrossRecError
    ├── DataError            (ValueError)   bad or missing input data; names the value and the remedy
    │   └── UnknownItemError                an item id that the catalogue lacks
    ├── ConfigError          (ValueError)   a setting outside its range, or unknown
    ├── ModelError           (ValueError)   a model or adapter that cannot be used
    │   └── BundleError                     a folder on disk is incomplete, corrupt or foreign
    │       └── BaseMismatchError           it belongs to another base model
    ├── StorageError         (OSError)      the disk refuses a write: full, read-only or faulty; nothing has changed
    ├── UnavailableError     (OSError)      a database does not answer; try again
    ├── MissingExtraError    (ImportError)  an optional dependency is absent; names its install line
    └── UnsupportedSystemError (ImportError)  neither Linux nor macOS

Every message says what failed, the value, what was expected and what to do.
The command line turns each of them into one sentence on stderr and exit status 2.
"""

from __future__ import annotations

from copyreg import __newobj__  # type: ignore[attr-defined]


class XCrossRecError(Exception):
    """Base of everything that xcrossrec raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:  # pickled between processes: rebuilt without its own __init__
        return __newobj__, (type(self), *self.args), self.__dict__


class DataError(XCrossRecError, ValueError):
    """Input data are missing, malformed or inconsistent."""


class UnknownItemError(DataError):
    """An item id that the catalogue lacks."""


class ConfigError(XCrossRecError, ValueError):
    """A setting is unknown or outside its range."""


class OtherRunError(ConfigError):
    """There is no training to resume, or it has other settings."""


class ModelError(XCrossRecError, ValueError):
    """A model or an adapter cannot be used as asked."""


class BundleError(ModelError):
    """A model folder is incomplete, corrupt, foreign or unsafe."""


class NoCatalogueError(BundleError):
    """No catalogue is there."""


class BaseMismatchError(BundleError):
    """Adapters, or a bundle, were trained on another base model."""


class StorageError(XCrossRecError, OSError):
    """The disk refuses a write; nothing has changed."""


class UnavailableError(XCrossRecError, OSError):
    """A database does not answer, or a connection to it was lost; try again."""


class MissingExtraError(XCrossRecError, ImportError):
    """An optional dependency is not installed.

    Args:
        module: the module that could not be imported.
        extra: the extra of this distribution that installs it; None for a separate package.
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
    """The resource whose lack caused an error, and the remedy; None for any other error."""
    said = f"{type(error).__name__}: {error}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    found = next((what for what, words in _LACKS.items() if any(word in said for word in words)), None)
    return found or (lacking(cause) if cause else None)


def not_read(path: object, error: BaseException) -> StorageError | None:
    """The error for a file that could not be read for lack of resources or rights; None if it may be damaged."""
    lack = lacking(error)
    return StorageError(f"{path} could not be read ({error}): {lack}; nothing is damaged") if lack else None
