"""Speed figures: each one measures this project beside its rivals, in the same run."""
