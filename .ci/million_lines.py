"""Send a million lines through `POST /jobs/stream` of the command that is named; memory stays flat.

A buffer of 100 and 10 workers. Only the standard library; Linux, for the process's memory.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LINES = 1_000_000
PIECE = b'{"type":"email","payload":{"to":"user@example.com"}}\n' * 1000
# From when the completed jobs that are kept have reached their bound.
WARM_UP = 100_000
MAX_GROWTH = 8_000_000
MAX_SECONDS = 900

CONFIG = """
[pool]
workers = 10
buffer_size = 100

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
        f"{LINES} lines in {seconds:.0f} s; resident memory grew by {growth} bytes"
        f" from {memory[0]}\n"
    )


def _lines(pid: int, memory: list[int]) -> Iterator[bytes]:
    for sent in range(0, LINES, 1000):
        if sent >= WARM_UP and sent % 10_000 == 0:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        yield PIECE


if __name__ == "__main__":
    main(sys.argv[1])
