"""Recommend items of a catalogue for a history, and say why; asked by Python, commands, batch job and service alike."""

from xcrossrec.recommender.questions import Answer, Item, Question
from xcrossrec.recommender.recommender import Recommender

__all__ = ["Answer", "Item", "Question", "Recommender"]
