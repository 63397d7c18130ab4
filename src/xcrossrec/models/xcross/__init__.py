"""X-Cross (SIGIR 2025, arXiv 2504.20859), a file for each of the paper's stages.

- ``streams``: stage 1, one frozen base with a frozen LoRA for each source domain, run as parallel streams.
- ``integrator``: stages 2 and 3, how each stream takes from the others after a layer.
- ``encoder``: stage 4, the weighted sum of the streams, all stages put together, and parts switched off for a while.
"""
