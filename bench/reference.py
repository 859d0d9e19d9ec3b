"""The counterpart of `POST /jobs`: an application that reads the body and answers the same bytes.

Run as a child: ``python -m bench.reference``. It prints its port.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from bench.children import Server, python_module

# Connections are idle for so long at most, during other turns.
_IDLE_SECONDS = 600.0

_ID = b"01980000-0000-7000-8000-000000000000"
_ANSWER = (
    b'{"id":"%b","type":"email","status":"pending","created_at":"2026-11-25T08:00:00.123456Z"}'
    % _ID
)
_HEADERS = (
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_ANSWER)),
    (b"location", b"/jobs/" + _ID),
)


@contextmanager
def running() -> Iterator[Server]:
    """Run the application under plain Hypercorn for the length of the block."""
    with python_module("bench.reference") as child:
        yield Server(pid=child.pid, port=int(child.wait_for(r"^port (\d+)")[1]))


async def bare(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  (ASGI's dicts)
    """The least that an ASGI application can do."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 201, "headers": list(_HEADERS)})
    await send({"type": "http.response.body", "body": _ANSWER})


async def main() -> None:
    """Serve by Hypercorn alone, without its limits on requests and idle time."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    print(f"port {listening.getsockname()[1]}", flush=True)
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.errorlog = None
    config.keep_alive_max_requests = 10**9
    config.keep_alive_timeout = _IDLE_SECONDS
    config.include_server_header = False
    await serve(bare, config)


if __name__ == "__main__":
    trio.run(main)
