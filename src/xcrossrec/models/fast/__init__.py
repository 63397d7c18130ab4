"""The fast pass: what BERT-like bases compute on the CPU instead of their layers, with the same results."""

from __future__ import annotations

import os

from xcrossrec.exceptions import ConfigError

SWITCH = "XCROSSREC_FAST"
"""Environment variable, the one setting that turns it off: ``0`` leaves everything to the layers of transformers and to
PyTorch's own products."""


def switched_on() -> bool:
    """Whether anything here may run (ConfigError: the variable is neither 0 nor 1); read anew each time, so that one
    process can compare both."""
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise ConfigError(f"{SWITCH} is {value!r}: set it to 0 for PyTorch's own layers, to 1 or not at all otherwise")
    return value == "1"
