"""Check array shapes at run time, and nothing else.

jaxtyping's import hook hands every function of the package to a type checker. Beartype refuses some hints of
other libraries (polars' data types, `Self`), and types in general are mypy's work: so it sees the hints of
arrays only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

_ARRAY = re.compile(r"\b(?:Shaped|Bool|U?Int\d*|Integer|Float\d*|BFloat16|Inexact|Num|Real)\[")


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its annotated arrays are checked; others come back as they are."""
    hints = getattr(function, "__annotations__", {})
    arrays = {name: hint for name, hint in hints.items() if _is_array(hint)}
    if not arrays:
        return function
    function.__annotations__ = arrays
    try:
        return beartype(function)
    finally:
        function.__annotations__ = hints


def _is_array(hint: object) -> bool:
    return bool(_ARRAY.search(hint if isinstance(hint, str) else repr(hint)))
