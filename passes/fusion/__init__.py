"""Merge neighbouring operators into one."""
