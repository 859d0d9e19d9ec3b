"""Tests of the handlers: what runs the users' functions."""
