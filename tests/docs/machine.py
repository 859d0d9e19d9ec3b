"""What a test needs of the machine; and where everything must be there, nothing is passed over."""

import os
import shutil
from typing import NoReturn

import pytest


def need(*programs: str) -> None:
    """Skip the test on a machine that lacks one of these programs."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pass_over(f"needs {', '.join(missing)}")


def pass_over(reason: str) -> NoReturn:
    """Skip the test, or fail it where ``TEST_EVERYTHING`` is set, as in ``.ci/run``."""
    if os.environ.get("TEST_EVERYTHING"):
        pytest.fail(f"TEST_EVERYTHING is set, and this {reason}")
    pytest.skip(reason)
