"""Sparsity on arrays: masks, what they cost, what the remaining weights become."""
