"""Metrics for Prometheus: the numbers of a pool, written by the extra ``metrics``."""
