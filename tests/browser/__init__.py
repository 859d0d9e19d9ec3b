"""Tests of the page for operators in a real browser."""
