"""Where the laboratory lies; its commands run from the repository's root."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
LAB = REPOSITORY / "lab"
EVIDENCE = LAB / "evidence"
RESULTS = LAB / "results"
SHARED = REPOSITORY.parent / "shared"
"""Data that are no part of the repository."""
