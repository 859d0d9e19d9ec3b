"""The client, over HTTP."""
