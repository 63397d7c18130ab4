"""Suites of target x method x budget x seed: resumable runs, one JSON a cell, kept in little room."""
