"""The integrated encoder: n LoRA adapters over one shared base, integrated layer by layer."""
