"""The fast pass: what BERT-like bases compute on the CPU instead of their layers, with the same results."""
