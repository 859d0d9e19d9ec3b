"""The commands beside `serve`: each in a module of its own, with what they share.

`trio_jobs.cli` names them. A module here imports neither the server nor the HTTP client at its top:
a completion by the shell imports all of them.
"""
