"""Attention: lifting, masks, biases as factors."""
