"""The users' functions by job type, and what runs the right one for a job.

Empty: a child process needs a part of this package, and runs without Trio.
"""
