"""The HTTP API: HTTP in, admission, JSON out. See `trio_jobs.api.app.create_app`."""
