"""Fewer, shared or smaller experts."""
