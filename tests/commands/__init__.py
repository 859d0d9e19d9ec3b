"""Tests of the commands beside `serve`, in this process; `system` has those of the real command."""
