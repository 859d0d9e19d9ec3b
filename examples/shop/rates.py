"""A slow HTTP API to try the example with: each rate takes two seconds."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS = 2.0


class Rates(BaseHTTPRequestHandler):
    """Knows one rate."""

    def do_GET(self) -> None:
        """Answer late."""
        time.sleep(SECONDS)
        known = self.path == "/rates/EUR"
        body = json.dumps({"value": 1.25} if known else {"error": "no such currency"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Rates).serve_forever()
