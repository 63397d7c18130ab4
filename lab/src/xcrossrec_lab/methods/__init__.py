"""Every method of the suites, by kind; a method's module is imported when it runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from xcrossrec_lab.task import Method


@dataclass(frozen=True)
class Kind:
    """A kind of method.

    Attributes:
        place: ``module:function`` below this package.
        learns: whether it learns from the target's users; if not, its cells have no budget and no seed.
        uses_sources: whether it uses the sources; if not, its cells name none.
        draws: whether a seed changes it beyond the draw of users.
    """

    place: str
    learns: bool = True
    uses_sources: bool = False
    draws: bool = True

    def load(self) -> Method:
        """Import it."""
        module, function = self.place.split(":")
        return cast(Method, getattr(importlib.import_module(f"{__name__}.{module}"), function))


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "popularity": Kind("counting:popularity", draws=False),
        "itemknn": Kind("counting:itemknn", draws=False),
        "copurchase": Kind("purchases:copurchase", draws=False),
        "ease": Kind("ease:ease", draws=False),
        "tfidf": Kind("counting:tfidf", learns=False),
        "untrained": Kind("sources:untrained_base", learns=False),
        "tsdae": Kind("catalogue_only:denoised", learns=False),
        "source": Kind("sources:source_alone", learns=False, uses_sources=True),
        "mean-of-sources": Kind("sources:mean_of_sources", learns=False, uses_sources=True),
        "merged-linear": Kind("merging:merged_linear", learns=False, uses_sources=True),
        "merged-cat": Kind("merging:merged_cat", learns=False, uses_sources=True),
        "merged-ties": Kind("merging:merged_ties", learns=False, uses_sources=True),
        "merged-dare": Kind("merging:merged_dare", learns=False, uses_sources=True),
        "merged-entropy": Kind("source_free:merged_entropy", learns=False, uses_sources=True),
        "merged-pseudo-users": Kind("source_free:merged_pseudo_users", learns=False, uses_sources=True),
        "arrow": Kind("arrow:arrow", learns=False, uses_sources=True),
        "lorahub": Kind("lorahub:lorahub", uses_sources=True),
        "xlora": Kind("xlora:xlora", uses_sources=True),
        "adapter-fusion": Kind("fusion:adapter_fusion", uses_sources=True),
        "unisrec": Kind("unisrec:unisrec", uses_sources=True),
        "sasrec": Kind("sasrec:sasrec"),
        "bsarec": Kind("bsarec:bsarec"),
        "head": Kind("lora:head_on_the_base"),
        "lora": Kind("lora:lora"),
        "lora-from-source": Kind("lora:lora_from_best_source", uses_sources=True),
        "lora-from-merged": Kind("merging:lora_from_merged", uses_sources=True),
        "full-fine-tuning": Kind("finetuning:full_fine_tuning"),
        "xcross": Kind("integration:xcross", uses_sources=True),
        "merged": Kind("integration:merged", uses_sources=True),
    }
)
"""Kind to what makes it."""
