"""The product's fixtures, checked shapes in the laboratory too."""

from __future__ import annotations

from jaxtyping import install_import_hook

from conftest import amazon_dir, tiny_domain, tiny_models  # ../tests, see pythonpath in pyproject.toml

install_import_hook("xcrossrec_lab", "shape_checker.check_shapes")

__all__ = ["amazon_dir", "tiny_domain", "tiny_models"]
