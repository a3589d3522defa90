"""Fewer bits: weights and activations as integers, where the runtime was measured to gain by it."""
