"""Run-time checks of the arguments of public functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from xcrossrec.exceptions import ConfigError

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    NoneType: "None",
    Path: "a path",
    Sequence: "a list",
    Collection: "a list",
    Mapping: "a mapping, as {name: value}",
    Callable: "a function",
}


def checked(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Check a function's arguments against its annotations; the error names the argument.

    The elements of lists are checked, those of mappings and tables are not. Numbers of numpy become Python's.

    Returns:
        the function, which raises ConfigError for such an argument before it does anything.
    """
    parameters, hints = signature(function), dict[str, Any]()

    @wraps(function)
    def door(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        if not hints:
            hints.update(get_type_hints(function))
        given = parameters.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            given.arguments[name] = value.item() if isinstance(value, np.generic) else value
            _look(name, given.arguments[name], hints.get(name, Any))
        return function(*given.args, **given.kwargs)

    return door


def _look(name: str, value: object, hint: Any) -> None:
    kinds = _kinds(hint)
    fitting = [kind for kind in kinds if kind is Any or _is(value, kind)]
    if not fitting:
        expected = " or ".join(dict.fromkeys(_WORDS.get(kind, kind.__name__) for kind in kinds))
        remedy = "; put it into one" if isinstance(value, str) and kinds.keys() & {Sequence, Collection} else ""
        raise ConfigError(f"{name} is {_said(value)}: expected {expected}{remedy}")
    if Path in kinds and isinstance(value, str | Path) and "\0" in str(value):
        raise ConfigError(f"{name} is {str(value)!r}: no path holds a zero byte")
    own = not hasattr(value, "shape")  # no library's column
    if own and fitting in ([Sequence], [Collection]) and isinstance(value, Iterable):
        for place, each in enumerate(value):
            _look(f"{name}[{place}]", each, kinds[fitting[0]])


@cache
def _kinds(hint: Any) -> Mapping[Any, Any]:
    """The classes that a hint allows, each with the type of its elements; Any for anything but a class."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return {kind: holds for each in inside for kind, holds in _kinds(each).items()}
    if origin is Literal:
        return {type(each): Any for each in inside}
    kind = NoneType if hint is None else origin or hint
    return {kind if isinstance(kind, type) else Any: inside[0] if kind in (Sequence, Collection) and inside else Any}


def _is(value: object, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is Sequence:  # also a column of any library, but no table
        listed = hasattr(value, "__len__") and hasattr(value, "__getitem__") and len(getattr(value, "shape", (0,))) == 1
        return listed and not isinstance(value, Mapping | str | bytes)
    return isinstance(value, kind) and not (kind is Collection and isinstance(value, Mapping | str | bytes))


def _said(value: object) -> str:
    """A short form of a value, or its type."""
    plain = isinstance(value, str | bytes | Real | NoneType | type)
    return f"{value!r:.80}" if plain else f"a {type(value).__name__}"
