"""Tests of deployments: a booted machine, a container."""
