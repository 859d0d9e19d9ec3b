"""What stands in for an image of Python: nothing is downloaded, and no registry is asked.

It has the Python of the tests, with what belongs to it, a shell, wheels for ``pip``, and an
``apt-get`` that knows one package.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.docs.machine import need, pass_over

DOCKERFILE = """
FROM scratch
COPY files /
# Instead of an index of packages.
COPY wheels /wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
RUN ["python3", "-m", "ensurepip"]
RUN ["python3", "-c", "import os; os.symlink('pip3', '/usr/local/bin/pip')"]
"""
PREFIX = Path(sys.base_prefix)
LIBRARY = PREFIX / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
PROGRAMS = {PREFIX / "bin/python3": "usr/local/bin/python3", Path("/bin/sh"): "bin/sh"}
# Debian's packages, and what comes with any Debian.
PACKAGES = {Path("/usr/bin/catatonit"): "packages/catatonit"}
SCRIPTS = {
    "usr/local/bin/apt-get": """
import shutil, sys
if "install" in sys.argv:
    shutil.copy("/packages/" + sys.argv[-1], "/usr/local/bin")
""",
    "usr/local/bin/rm": "",
}
# What a wheel may take for granted.
LIBRARIES = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")


def need_image() -> None:
    """Skip the test where it cannot be put together."""
    need("ldd")
    if not (LIBRARY / "ensurepip").exists() or Path("/usr") == PREFIX:
        pass_over("needs a Python in a folder of its own")


def write_image(folder: Path, wheels: Path) -> None:
    """Write the folder that it is built from."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    shutil.copytree(wheels, folder / "wheels")
    library = folder / "files/usr/local/lib" / LIBRARY.name
    left_out = shutil.ignore_patterns("test", "site-packages", "__pycache__", "config-*")
    shutil.copytree(LIBRARY, library, ignore=left_out)
    (library / "site-packages").mkdir()
    for name, text in SCRIPTS.items():
        script = folder / "files" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!/usr/local/bin/python3{text}\n")
        script.chmod(0o755)
    copies = PROGRAMS | PACKAGES | {path: str(path)[1:] for path in linked_libraries()}
    for source, target in copies.items():
        (folder / "files" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / "files" / target)


def linked_libraries() -> Iterator[Path]:
    """The shared libraries of everything in it."""
    programs = [*PROGRAMS, *(LIBRARY / "lib-dynload").glob("*.so")]
    linked = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True)
    found = {Path(text) for text in re.findall(r"(/\S+) \(0x", linked.stdout)}
    [libc] = [path for path in found if path.name == "libc.so.6"]
    yield from found | {path for name in LIBRARIES if (path := libc.with_name(name)).exists()}
