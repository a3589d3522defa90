"""Emitters, found by looking."""
