"""Training with sentence-transformers trainers: LoRA on one domain, integrators on a new one."""
