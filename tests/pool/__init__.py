"""Tests of the pool: admission, workers, waiting clients."""
