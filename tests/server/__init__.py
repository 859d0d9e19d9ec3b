"""Tests of the front door, over real loopback sockets."""
