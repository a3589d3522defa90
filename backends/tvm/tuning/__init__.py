"""Schedules are chosen by measurement."""
