"""The purchases that a recommender knows: its model's, and after them its catalogue's, as they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

from xcrossrec.catalogue import Catalogue, Purchase
from xcrossrec.copurchase import CoPurchases
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import term_of


class Bought:
    """Counts a model's and a catalogue's purchases together; any thread may use it.

    The model's own counts stay as they are, but for customers who are forgotten. What both know counts once.

    Attributes:
        term: what the model adds to a text score, by all purchases; None for a model that knows no purchases.
    """

    def __init__(self, model: Model, catalogue: Catalogue) -> None:
        read, own = catalogue.purchases_read, term_of(model)
        self._own = None if own is None else own.counts
        self._forget_own(catalogue.forgotten)  # a bundle may have been made, or copied, before
        table = catalogue.purchases()
        if own is None:
            self._counts = CoPurchases.count(table)
        else:
            self._counts = own.counts.copy() if table.is_empty() else own.counts.joined(table)
        self.term = None if own is None else replace(own, counts=self._counts)
        self._catalogue, self._read, self._reading = catalogue, read, Lock()

    def learn(self) -> None:
        """Count what the catalogue took in since; costs next to nothing where that is nothing."""
        if not self._catalogue.purchases_after(self._read):
            return
        with self._reading:
            for each in (new := self._catalogue.purchases_after(self._read)):
                if isinstance(each, Purchase):
                    self._counts.add(each.user_id, [each.item_id])
                elif each is not None:
                    self._forget_own([each.customer])
                    self._counts.forget([each.customer])
            self._read += len(new)

    def _forget_own(self, customers: Sequence[str]) -> None:
        if self._own is not None:
            self._own.forgotten.update(self._own.forget(customers))

    def of(self, user_id: str | None) -> tuple[str, ...]:
        """What a customer bought, oldest first; nothing for an unknown one."""
        return () if user_id is None else self._counts.of_user(user_id)
