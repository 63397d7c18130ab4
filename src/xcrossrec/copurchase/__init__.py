"""What is bought with what: counted from purchases, added to while serving, and weighed beside the text score."""

from xcrossrec.copurchase.counts import CoPurchases, Term, user_hash

__all__ = ["CoPurchases", "Term", "user_hash"]
