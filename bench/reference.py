"""The counterparts of `POST /jobs`: servers that read the body and answer the same bytes.

Run as a child: ``python -m bench.reference bare|quart``. It prints its port.
"""

import socket
import sys
from functools import partial
from typing import Any

import trio

# Connections are idle for so long at most, during other turns.
IDLE_SECONDS = 600.0

_ID = "01980000-0000-7000-8000-000000000000"
_ANSWER = (
    b'{"id":"%b","type":"email","status":"pending","created_at":"2026-11-25T08:00:00.123456Z"}'
    % _ID.encode()
)
_HEADERS = {
    "content-type": "application/json",
    "content-length": str(len(_ANSWER)),
    "location": f"/jobs/{_ID}",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]


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
    await send({"type": "http.response.start", "status": 201, "headers": list(_RAW_HEADERS)})
    await send({"type": "http.response.body", "body": _ANSWER})


def quart() -> Any:  # noqa: ANN401  (an ASGI application)
    """The least that a route of Quart-Trio can do."""
    from quart import Response, request
    from quart_trio import QuartTrio

    app = QuartTrio("bench")

    @app.post("/jobs")
    async def submit() -> Response:
        await request.get_data()
        return Response(_ANSWER, 201, headers=_HEADERS)

    return app


async def serve_plain(app: Any) -> None:  # noqa: ANN401
    """Serve by Hypercorn alone, without its limits on requests and idle time."""
    from hypercorn.config import Config
    from hypercorn.trio import serve

    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    _announce(listening.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.errorlog = None
    config.keep_alive_max_requests = 10**9
    config.keep_alive_timeout = IDLE_SECONDS
    config.include_server_header = False
    await serve(app, config)


async def serve_by_trio_jobs(app: Any) -> None:  # noqa: ANN401
    """Serve by the server of trio-jobs, with its defaults but for the idle time."""
    from trio_jobs.server.serve import serve
    from trio_jobs.server.sockets import bind_sockets
    from trio_jobs.settings import HttpSettings

    listeners = bind_sockets(["127.0.0.1:0"])
    settings = HttpSettings(keep_alive_timeout=IDLE_SECONDS)
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(serve, app, listeners, settings, closing=trio.Event()))
        _announce(int(urls[0].rpartition(":")[2]))


def _announce(port: int) -> None:
    print(f"port {port}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        trio.run(serve_plain, bare)
    else:
        trio.run(serve_by_trio_jobs, quart())
