"""Run the tutorial's tests with what this environment holds: the wheel and its extra `testing`.

pytest has to find the plugin by itself, in an otherwise empty folder.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.docs.blocks import DOCS, blocks_of

LIMIT_SECONDS = 60


def main() -> None:
    """Fail with an assertion or an error if anything goes wrong."""
    files = {
        block.name: block.text
        for block in blocks_of(DOCS / "tutorial.md")
        if block.kind == "python" and block.name is not None
    }
    tests = [name for text in files.values() for name in re.findall(r"def (test_\w+)", text)]
    assert tests, files
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST_"))
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--strict-markers", "-q"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0
    assert f"{len(tests)} passed" in done.stdout


if __name__ == "__main__":
    main()
