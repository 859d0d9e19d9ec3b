"""For the tests that deploy: what an index of packages would have."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

# What the projects of the pages need beside trio-jobs.
PACKAGES = ("hatchling", "psycopg[binary]")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of trio-jobs, of what it needs, and of what projects are built with."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-qq",
            "-w",
            folder,
            ROOT,
            "hatchling",
            "psycopg[binary]",
        ],
        check=True,
    )
    return folder


@pytest.fixture(scope="session")
def own_wheel(wheels: Path) -> Path:
    """That of trio-jobs, which the page has its reader make, as no index has it."""
    [wheel] = wheels.glob("trio_jobs-*.whl")
    return wheel
