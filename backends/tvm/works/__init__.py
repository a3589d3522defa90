"""Kernels that can be cut in more than one way."""
