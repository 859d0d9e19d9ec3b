"""The HTTP server: accepts connections and hands requests to an ASGI application.

It knows nothing of the application. It bounds everything that one client or ten thousand clients
can do: sizes, times, and the order of closing.
"""
