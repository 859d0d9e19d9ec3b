"""The exit statuses of the command, beside those of a server's stop."""

OK = 0
BROKEN = 1  # the server cannot be reached, or the output cannot be written
MISTAKEN = 2  # in the configuration or on the command line; the status of argparse
UNSUCCESSFUL = 3  # all is done as asked, and some jobs did not succeed
UNKNOWN = 4  # the time is over, or the server knows no such job
TRY_AGAIN = 75  # no room, or no new jobs now; the number of EX_TEMPFAIL in sysexits.h
