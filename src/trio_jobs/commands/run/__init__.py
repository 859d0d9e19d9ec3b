"""`trio-jobs run`: the lines of a file as jobs, and their results as lines of another file."""
