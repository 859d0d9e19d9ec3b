"""Metrics: names, numbers, formats."""
