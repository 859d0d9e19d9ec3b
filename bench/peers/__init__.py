"""Other ways to run jobs in the background, each in a virtual environment of its own.

Modules named ``*_app`` run in those environments. They import nothing of this package but `tally`.
"""
