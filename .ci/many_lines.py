"""Send 100,000 lines through the stream and the pipe of the command that is named.

Memory stays flat, and the pipe answers each line once. The lines of the pipe have keys. A buffer of
100 and 10 workers. Only the standard library; Linux, for the process's memory.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LINES = 100_000
PIECE = b'{"type":"email","payload":{"to":"user@example.com"}}\n' * 1000
# From when the completed jobs that are kept have reached their bound.
KEPT = 1_000
WARM_UP = 10_000
# One object a line would be more.
MAX_GROWTH = 2_500_000
MAX_SECONDS = 900

CONFIG = f"""
[pool]
workers = 10
buffer_size = 100

[store]
keep_completed = {KEPT}

[http]
bind = "127.0.0.1:0"

[handlers]
default = "work:nothing"
"""

HANDLERS = """
async def nothing(payload):
    pass
"""


def main(command: str) -> None:
    """Fail with an assertion or an error if anything goes wrong."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.toml").write_text(CONFIG)
        Path(folder, "work.py").write_text(HANDLERS)
        server = subprocess.Popen(  # noqa: S603  (the caller's own command)
            [Path(command).absolute()], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if found := re.search(r"Running on http://(\S+)", line):
                    break
            else:
                raise AssertionError("the server has not started")
            threading.Thread(target=server.stderr.read).start()
            memory: list[int] = []
            _pipe(found.group(1), server.pid)
            began = time.monotonic()
            client = http.client.HTTPConnection(found.group(1), timeout=MAX_SECONDS)
            client.request("POST", "/jobs/stream", _lines(server.pid, memory), encode_chunked=True)
            answer = client.getresponse()
            body = json.load(answer)
            seconds = time.monotonic() - began
            assert (answer.status, body) == (201, {"accepted": LINES}), body
            growth = max(memory) - memory[0]
            assert growth < MAX_GROWTH, f"memory grew by {growth} bytes"
            server.send_signal(signal.SIGTERM)
            assert server.wait(MAX_SECONDS) == 0
        finally:
            server.kill()
    sys.stdout.write(
        f"stream: {LINES} lines in {seconds:.0f} s; resident memory grew by {growth} bytes"
        f" from {memory[0]}\n"
    )


def _pipe(address: str, pid: int) -> None:
    began = time.monotonic()
    memory: list[int] = []
    host, port = address.rsplit(":", 1)
    answered = bytearray(LINES + 1)
    with socket.create_connection((host, int(port)), timeout=MAX_SECONDS) as connection:
        head = f"POST /jobs/pipe?type=email HTTP/1.1\r\nHost: {address}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sender = threading.Thread(target=_send_keyed, args=(connection,))
        sender.start()
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        assert answer.status == 200, answer.status
        end: dict[str, object] = {}
        for text in answer:
            line = json.loads(text) if text != b"\n" else {}
            if "line" in line:
                assert line["outcome"] == "succeeded", line
                answered[line["line"]] += 1
                if line["line"] >= WARM_UP and line["line"] % 10_000 == 0:
                    memory.append(_resident(pid))
            end = line if "end" in line else end
        sender.join()
    assert end == {"end": "input", "lines": LINES, "succeeded": LINES}, end
    assert answered[1:] == b"\x01" * LINES
    growth = max(memory) - memory[0]
    assert growth < MAX_GROWTH, f"memory grew by {growth} bytes"
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"pipe: {LINES} lines in {seconds:.0f} s; resident memory grew by {growth} bytes"
        f" from {memory[0]}\n"
    )


def _send_keyed(connection: socket.socket) -> None:
    for first in range(0, LINES, 1000):
        numbers = range(first, min(first + 1000, LINES))
        piece = b"".join(b'{"payload":%d,"key":"k%d"}\n' % (n, n) for n in numbers)
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    connection.sendall(b"0\r\n\r\n")


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _lines(pid: int, memory: list[int]) -> Iterator[bytes]:
    for sent in range(0, LINES, 1000):
        if sent >= WARM_UP and sent % 10_000 == 0:
            memory.append(_resident(pid))
        yield PIECE


if __name__ == "__main__":
    main(sys.argv[1])
