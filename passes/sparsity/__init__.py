"""Weights that become zero, and how they are stored."""
