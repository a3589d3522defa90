"""Sweeps: run the compiler over many models and show a table."""
