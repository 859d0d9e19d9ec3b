"""What the front door costs: server CPU per request, beside plain ``hypercorn.trio.serve``.

Run as ``python bench/front_door.py [requests] [repetitions]``. Four servers run side by side, each
in a process of its own, and take turns; a ratio is the median over the turns of one run. Plain
Hypercorn has its missing closes cured (connections are recycled under a bounded shield), for
otherwise it saves itself the work of closing connections and is measured doing less.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import trio

CONNECTIONS = 16
# Seconds that a connection may be idle: while the other servers have their turns.
WAIT = 600
BODY = b'{"type": "email", "payload": {"to": "user@example.com", "n": 1}}'
ANSWER = (
    b'{"id":"01980000-0000-7000-8000-000000000000","type":"email",'
    b'"status":"pending","created_at":"2026-11-25T08:00:00.123456Z"}'
)
REQUEST = (
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
CPU = b"GET /cpu HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def bare(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
    """The least an application can do: read the body, answer a constant."""
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
    answer = ANSWER if scope["path"] != "/cpu" else str(time.process_time()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def quart() -> Any:  # noqa: ANN401
    """The same with Quart-Trio, as it comes."""
    from quart import Response, request
    from quart_trio import QuartTrio

    app = QuartTrio("bench")

    @app.post("/jobs")
    async def submit() -> Response:
        await request.get_data()
        return Response(ANSWER, 201, content_type="application/json")

    @app.get("/cpu")
    async def cpu() -> str:
        return str(time.process_time())

    return app


def cure_f3() -> None:
    """Recycle a connection also when the application's nursery is already cancelled."""
    import hypercorn.trio.run
    from hypercorn.events import Closed, Event, Updated
    from hypercorn.trio.tcp_server import TCPServer

    class Cured(TCPServer):
        async def protocol_send(self, event: Event) -> None:
            if isinstance(event, (Updated, Closed)):
                with trio.move_on_after(5, shield=True):
                    await super().protocol_send(event)
            else:
                await super().protocol_send(event)

    hypercorn.trio.run.TCPServer = Cured  # type: ignore[attr-defined]  # for measuring only


async def serve_plain(app: Any, listening: socket.socket) -> None:  # noqa: ANN401
    """Serve with Hypercorn's own loop."""
    from hypercorn.config import Config
    from hypercorn.trio import serve

    cure_f3()
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.errorlog = None
    config.keep_alive_max_requests = 10**9
    config.keep_alive_timeout = WAIT
    config.include_server_header = False
    await serve(app, config)


async def serve_ours(app: Any) -> None:  # noqa: ANN401
    """Serve with the front door, as it is configured when nobody configures it."""
    from trio_jobs.server.limits import Limits
    from trio_jobs.server.listener import serve
    from trio_jobs.server.sockets import bind_sockets

    listeners = bind_sockets(["127.0.0.1:0"])
    print(listeners.urls[0].rpartition(":")[2], flush=True)
    limits = Limits(max_requests_per_connection=10**9, keep_alive_timeout=WAIT)
    await serve(app, listeners, closing=trio.Event(), limits=limits)


def serve(server: str, application: str) -> None:
    """The child process."""
    app = bare if application == "bare" else quart()
    if server == "ours":
        trio.run(serve_ours, app)
    else:
        listening = socket.create_server(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        trio.run(serve_plain, app, listening)


class Server:
    """A server in a process of its own, and the clients that keep it busy."""

    def __init__(self, server: str, application: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, "--serve", server, application],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self.process.stdout is not None  # noqa: S101
        port = int(self.process.stdout.readline())
        self.clients = [self._connect(port) for _ in range(CONNECTIONS)]

    def measure(self, requests: int) -> float:
        """Microseconds of the server's CPU for each of so many requests."""
        before = self._cpu()
        for _ in range(requests // CONNECTIONS):
            for client in self.clients:
                client.sendall(REQUEST)
            for client in self.clients:
                _answer(client)
        return (self._cpu() - before) / (requests // CONNECTIONS * CONNECTIONS) * 1e6

    def _connect(self, port: int) -> socket.socket:
        for _ in range(100):
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=10)
            except ConnectionRefusedError:
                time.sleep(0.1)
        raise RuntimeError("the server does not start")

    def _cpu(self) -> float:
        self.clients[0].sendall(CPU)
        return float(_answer(self.clients[0]))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def _answer(client: socket.socket) -> bytes:
    """The body of one answer, whichever way its length is given."""
    data = b""
    while True:
        received = client.recv(65536)
        if not received:
            raise RuntimeError(f"the server closed a connection after {data!r}")
        data += received
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank:
            continue
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if b"content-length" in fields:
            if len(body) == int(fields[b"content-length"]):
                return body
        elif body.endswith(b"0\r\n\r\n"):
            return body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n\r\n")[0]


def main(requests: int = 3200, repetitions: int = 9) -> None:
    """Measure, and print the table."""
    names = [(server, app) for app in ("bare", "quart") for server in ("plain", "ours")]
    servers = {name: Server(*name) for name in names}
    try:
        for server in servers.values():
            server.measure(requests)
        turns = [
            {name: server.measure(requests) for name, server in servers.items()}
            for _ in range(repetitions)
        ]
    finally:
        for server in servers.values():
            server.close()
    print("server CPU per POST, median (lowest to highest)")
    for name in names:
        values = [turn[name] for turn in turns]
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"  {name[1]:6}{name[0]:6} {statistics.median(values):5.0f} us ({spread})")
    for label, over, under in (
        ("bare: front door / plain", ("ours", "bare"), ("plain", "bare")),
        ("Quart-Trio: front door / plain", ("ours", "quart"), ("plain", "quart")),
        ("Quart-Trio by the front door / bare by plain", ("ours", "quart"), ("plain", "bare")),
    ):
        ratios = [turn[over] / turn[under] for turn in turns]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  {label}: {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:]))
