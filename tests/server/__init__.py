"""Tests of the HTTP server, over real loopback sockets."""
