"""Metrics for Prometheus: the numbers of a pool, written by the extra ``metrics``."""

from trio_jobs.metrics.collector import JobsCollector

__all__ = ["JobsCollector"]
