"""Recommend items of a catalogue for a history, and say why; asked by Python, commands, batch job and service alike."""

from xcrossrec.recommender.questions import Answer, Item, ItemLike, Question
from xcrossrec.recommender.ranking import PAIR_LIMIT
from xcrossrec.recommender.recommender import Recommender

__all__ = ["PAIR_LIMIT", "Answer", "Item", "ItemLike", "Question", "Recommender"]
