"""The HTTP service under load, and stores compared; not part of any test."""
