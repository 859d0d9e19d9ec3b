"""The front door: accepts connections and hands requests to an ASGI application.

It knows nothing of what the application does. Everything a client can do wrong, in one connection
or in ten thousand, ends here: the limits, the deadlines and the order of closing.
"""
