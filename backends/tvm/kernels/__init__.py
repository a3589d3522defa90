"""Kernels written in TIR, specialized to the sizes they are for."""
