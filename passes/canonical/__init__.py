"""Exact clean-up: after it, one meaning has one spelling."""
