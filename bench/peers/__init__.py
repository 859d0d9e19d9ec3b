"""The peers: other ways to run jobs in the background, each in a virtual environment of its own.

Modules named ``*_app`` run in those environments; they and what they import need nothing else of
this package but the standard library.
"""
