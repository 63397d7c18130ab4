"""One command that decides: which categories help, which model to ship, and how much better and how sure that is.

The package is a function, too: ``xcrossrec.adapt("data/garden", ["data/kitchen"], out="garden")``, see
:func:`xcrossrec.adapt.run.adapt`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Function(ModuleType):
    """A package that has its function's name, and can be called as it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See :func:`xcrossrec.adapt.run.adapt`."""
        return import_module("xcrossrec.adapt.run").adapt(*args, **kwargs)


adapt = sys.modules[__name__]
adapt.__class__ = _Function
