"""What is bought with what: counted from purchases, added to while serving, and weighed beside the text score."""

from xcrossrec.copurchase.counts import CoPurchases, user_hash
from xcrossrec.copurchase.term import RUNGS, Term

__all__ = ["RUNGS", "CoPurchases", "Term", "user_hash"]
