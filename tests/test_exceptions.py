"""The tree of exceptions."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from xcrossrec import exceptions
from xcrossrec.catalogue.rows import DamagedError
from xcrossrec.exceptions import (
    BaseMismatchError,
    BundleError,
    ConfigError,
    DataError,
    MissingExtraError,
    ModelError,
    StorageError,
    UnknownItemError,
    XCrossRecError,
)


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (DataError, (XCrossRecError, ValueError)),
        (UnknownItemError, (DataError,)),
        (ConfigError, (XCrossRecError, ValueError)),
        (ModelError, (XCrossRecError, ValueError)),
        (BaseMismatchError, (ModelError,)),
        (BundleError, (ModelError,)),
        (StorageError, (XCrossRecError, OSError)),
        (MissingExtraError, (XCrossRecError, ImportError)),
    ],
)
def test_each_exception_has_its_place_in_the_tree(error: type[Exception], parents: tuple[type, ...]) -> None:
    assert all(issubclass(error, parent) for parent in parents)
    assert error.__name__ in (exceptions.__doc__ or "")


def test_a_missing_extra_names_its_install_line() -> None:
    with pytest.raises(ImportError, match=r"needs 'torch'.*pip install 'xcrossrec\[models\]'"):
        raise MissingExtraError("torch", "models")


@pytest.mark.parametrize(
    "error", [MissingExtraError("torch", "models"), DamagedError(Path("a"), "b"), StorageError("full")]
)
def test_one_that_a_worker_raises_reaches_the_process_that_waits_for_it(error: Exception) -> None:
    """A pool of processes waits for ever for an exception that cannot be unpickled."""
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent)) == (type(error), str(error))
