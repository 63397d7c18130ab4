"""Recommend in a new domain by integrating domain-specific language models."""

__version__ = "0.1.0"
