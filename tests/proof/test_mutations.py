"""Wrong versions of the modules that carry the guarantees: the tests notice nearly all of them.

mutmut changes one thing at a time in a module that the README's table names, and runs the tests of
its package that reach the change until one of them fails.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.blocks import README, ROOT, SOURCE
from tests.docs.machine import pass_over
from tests.docs.test_readme import guarantees_of

# The tests of a package that has none in a folder or a file of its name, or not enough there; of a
# module that needs no more.
TESTS = {
    "handlers": ["tests/handlers", "--ignore=tests/handlers/test_loading.py"],  # names its folder
    "ndjson": ["tests/api/test_stream.py"],
    "job": ["tests/test_job.py", "tests/pool", "tests/stores"],
    "shutdown": ["tests/shutdown", "tests/test_main.py"],
    "stores": ["tests/stores", "tests/pool"],
    "json_encoding": ["tests/handlers", "--ignore=tests/handlers/test_loading.py"],
    "unfinished_report": ["tests/test_leftovers.py", "tests/pool/test_unfinished.py"],
}
COPIED = ["src", "tests", "docs", "examples", ".ci", "README.md", "config.toml", "pyproject.toml"]
# Some changes make no difference that a client could see: a log's text, a name in an error.
NOTICED = 0.8


def modules_of_the_guarantees() -> list[str]:
    """The modules that the README's table names, each once."""
    cells = " ".join(read for _, _, read, _ in guarantees_of(README))
    names = dict.fromkeys(re.findall(r"`([\w/]+\.py)`", cells))
    # A small share of the soak takes the first.
    return sorted(names, key=lambda name: (SOURCE / name).stat().st_size)


@pytest.mark.soak
@pytest.mark.parametrize("module", modules_of_the_guarantees())
def test_wrong_versions_are_noticed(module: str, tmp_path: Path, report: Path) -> None:
    if shutil.which("mutmut", path=str(Path(sys.executable).parent)) is None:
        pass_over("needs mutmut")
    copy_project(tmp_path, module)

    mutmut(tmp_path, "run")
    fates = dict(
        re.findall(r"^ +(\S+): (.+)$", mutmut(tmp_path, "results", "--all", "true"), re.MULTILINE)
    )

    counts = Counter(fates.values())
    with (report / "mutations.txt").open("a") as lines:
        what = ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items()))
        lines.write(f"{module}: {what}\n")
    unnoticed = [name for name, fate in fates.items() if fate in {"survived", "no tests"}]
    assert len(unnoticed) <= (1 - NOTICED) * len(fates), "\n".join(unnoticed)


def copy_project(folder: Path, module: str) -> None:
    """Copy what the tests need, with mutmut's settings for this module."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    package = module.removesuffix(".py").split("/")[0]
    tests = TESTS.get(Path(module).stem) or TESTS.get(package, [package_tests(package)])
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/trio_jobs/{module}"],
        "pytest_add_cli_args_test_selection": tests,
        "also_copy": COPIED[1:-1],
    }
    with (folder / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n")
        file.writelines(f"{key} = {value!r}\n" for key, value in settings.items())


def package_tests(package: str) -> str:
    """The folder or the file with the tests of a package or a module."""
    return f"tests/{package}" if (ROOT / "tests" / package).is_dir() else f"tests/test_{package}.py"


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut there, which must succeed; its output.

    It runs its tests in one process each, whatever the options of this run.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
