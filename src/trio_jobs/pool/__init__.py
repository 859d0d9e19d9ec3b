"""The promise: how jobs come in, wait, are processed once, and end."""
