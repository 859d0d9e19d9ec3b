"""Tests of the store in a database that several servers share."""
