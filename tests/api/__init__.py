"""Tests of the HTTP API, in process."""
