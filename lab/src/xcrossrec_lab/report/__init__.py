"""Tables and figures of a suite, made from its cells alone."""
