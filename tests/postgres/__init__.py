"""Tests of the store in a database, and the servers that they run against."""
