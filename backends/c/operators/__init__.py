"""Emitters, one file per family of operators; they are found by looking."""
