"""Models for other systems: folders that need no xcrossrec, checked against the model."""
