"""Ranking metrics, one value a user, and the statistics that compare them (numpy only)."""
