"""How the process ends: signals, the hard limit, and what is in the way."""
