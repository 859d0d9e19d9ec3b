"""The log of the process: an event and its fields a line, on one stream, however it is read."""
