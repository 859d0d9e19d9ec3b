"""Start the command that is named, in this folder, pass one job through it, and stop it.

Only the standard library: the environment holds nothing but the wheel.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

LIMIT_SECONDS = 30


def main(command: list[str]) -> None:
    """Fail with an assertion or an error if anything goes wrong."""
    server = subprocess.Popen(  # noqa: S603  (the caller's own command)
        command,
        env={**os.environ, "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"Running on (http://\S+)", line):
                break
        else:
            raise AssertionError("the server has not started")
        url = found.group(1)
        body = json.dumps({"type": "email", "payload": {"to": "user@example.com"}}).encode()
        job = _json(urllib.request.Request(f"{url}/jobs", data=body))  # noqa: S310
        assert job["status"] == "pending", job
        end = time.monotonic() + LIMIT_SECONDS
        while job["status"] != "completed":
            assert time.monotonic() < end, job
            time.sleep(0.1)
            job = _json(urllib.request.Request(f"{url}/jobs/{job['id']}"))  # noqa: S310
        assert job["outcome"] == "succeeded", job
        for path in ("ui", "ui/app.css", "ui/app.js", "ui/icon.svg"):
            with urllib.request.urlopen(f"{url}/{path}", timeout=LIMIT_SECONDS) as answer:  # noqa: S310
                assert answer.read(), path
        server.send_signal(signal.SIGTERM)
        assert server.wait(LIMIT_SECONDS) == 0
    finally:
        server.kill()
    sys.stdout.write(f"one job {job['outcome']}, stopped with status 0\n")


def _json(request: urllib.request.Request) -> dict[str, str]:
    with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:  # noqa: S310
        result: dict[str, str] = json.load(answer)
        return result


if __name__ == "__main__":
    main(sys.argv[1:])
