"""Attacks on the product: files that are damaged, jobs that are killed."""
