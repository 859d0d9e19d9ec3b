"""The documentation is true: its blocks run, its references are those of the code."""
