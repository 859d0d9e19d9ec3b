"""Tests of the signals and of the hard limit, in process."""
