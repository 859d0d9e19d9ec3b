"""Start the command that is named, and let schemathesis compare it with its own OpenAPI document.

The handlers are those of this file's folder (`fuzz_handlers.py`): with payloads of all kinds.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).parent
MAX_SECONDS = 240
# The seed of the command line says which.
EXAMPLES = 10

CONFIG = """
[pool]
buffer_size = 1000

[http]
bind = "127.0.0.1:0"
max_body_bytes = 100_000
stream_idle_timeout = 5
max_wait_seconds = 0.2

[handlers]
parcel = "fuzz_handlers:ship"
email = "fuzz_handlers:send"
tidy = "fuzz_handlers:tidy"
default = "fuzz_handlers:accept"

[handlers.count]
call = "fuzz_handlers:count"
spread = true
"""


def main(command: str, schemathesis: str, seed: str) -> int:
    """Return schemathesis's exit status, or 1 if the server has failed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.toml").write_text(CONFIG)
        server = subprocess.Popen(  # noqa: S603  (the caller's own command)
            [Path(command).absolute()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(HERE)},
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
            # Read on: a log that nobody reads would lose lines.
            log: list[str] = []
            reader = threading.Thread(target=log.extend, args=(server.stderr,))
            reader.start()
            status = subprocess.run(  # noqa: S603  (the caller's own command)
                [
                    Path(schemathesis).absolute(),
                    f"--config-file={HERE / 'fuzz.schemathesis.toml'}",
                    "run",
                    f"{found.group(1)}/openapi.json",
                    "--checks=all",
                    f"--max-examples={EXAMPLES}",
                    f"--seed={seed}",
                    # An answer without an end; and what has the server refuse other requests.
                    "--exclude-path-regex=^/(events|pool/.+)$",
                    "--phases=examples,coverage,fuzzing,stateful",
                    "--request-timeout=20",
                    "--generation-database=none",
                ],
                check=False,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "fuzz_hooks"},
                timeout=MAX_SECONDS,
            ).returncode
            server.send_signal(signal.SIGTERM)
            stopped = server.wait(60)
            reader.join()
            # Jobs with a delay still wait: the stop names them, and ends with status 1.
            known = (" INFO ", " jobs_waiting ")
            unusual = [line for line in log if not any(word in line for word in known)]
            sys.stdout.writelines(unusual)
            return status or stopped not in {0, 1} or any(" ERROR " in line for line in unusual)
        finally:
            server.kill()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
