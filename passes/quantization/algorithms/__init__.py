"""Quantization on arrays: pure functions of weights, Gram matrices and grids; no graph in sight."""
