"""A job server in one process: submit over HTTP, N workers, each job exactly once, a clean stop."""
