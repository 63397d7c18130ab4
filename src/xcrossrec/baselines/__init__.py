"""Rivals, each a :class:`xcrossrec.scoring.Scorer`; import one from its own module."""
