"""The receiver of the example's webhook: answers each POST with 204, and prints it."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Receiver(BaseHTTPRequestHandler):
    """Takes events."""

    def do_POST(self) -> None:
        """Take one event."""
        length = int(self.headers["Content-Length"])
        sys.stdout.write(f"{self.rfile.read(length).decode()}\n")
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
