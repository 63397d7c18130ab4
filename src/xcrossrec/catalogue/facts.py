"""What a catalogue's database says of it as a whole; it may come from anybody, so a schema says what it can be."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, ValidationError

from xcrossrec.data.text import ItemText
from xcrossrec.models.files import Settings, what_does_not_fit

LAST_VERSION = 10**15
"""No catalogue is written to so often."""

Sum: TypeAlias = Annotated[int, Field(ge=0)]


class _Facts(Settings):
    fingerprint: str
    dim: Annotated[int, Field(ge=0, le=65_536)]
    version: Annotated[int, Field(ge=0, le=LAST_VERSION)]
    text: Annotated[str, AfterValidator(lambda text: ItemText(text).template)]
    recent: Sum
    segments: Sum
    purchases: Sum
    forgotten: tuple[str, ...] = ()
    unwiped: bool = False


def read_facts(text: str) -> dict[str, Any]:
    """Read facts from JSON; ValueError names the first that does not fit."""
    try:
        return _Facts.model_validate_json(text).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ValueError(f"of its facts, {what_does_not_fit(error)}") from error
