"""One module a topic; each has a tuple ``FIGURES`` that ``run.py`` finds."""
