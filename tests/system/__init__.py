"""Tests that start the real command, child processes or another pytest."""
