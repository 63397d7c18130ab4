"""The laboratory of xcrossrec: suites of rivals and their evidence, speed, load; it stands on the product."""
