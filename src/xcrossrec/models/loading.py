"""A model by where it lies, so that any process can load it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xcrossrec.models import bundle
from xcrossrec.models.identity import AnyBase
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.types import EncodingPrecision


@dataclass(frozen=True)
class Loading:
    """Loads a model when it is called.

    Attributes:
        path: what ``xcrossrec train`` wrote.
        base: see :func:`xcrossrec.load`.
        precision: of encoding.
    """

    path: Path | str
    base: AnyBase | None = None
    precision: EncodingPrecision = "fp32"

    def __call__(self) -> Model:
        """Load it.

        Raises:
            ModelError: see :func:`xcrossrec.load`.
        """
        model = bundle.load(self.path, base=self.base)
        encoder_of(model).precision = self.precision
        return model

    def anywhere(self) -> Loading:
        """The same by whole paths, which mean the same in every folder."""
        base = self.base
        if isinstance(base, (Path, str)) and Path(base).exists():
            base = Path(base).absolute()
        return replace(self, path=Path(self.path).absolute(), base=base)
