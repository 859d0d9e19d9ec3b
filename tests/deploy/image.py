"""What stands in for an image of Python: nothing is downloaded, and no registry is asked.

It has the Python of the tests, with what belongs to it, their ``pip``, a shell, wheels, and an
``apt-get`` that knows one package. What has been compiled here is not compiled there again.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.docs.machine import need, pass_over

# Instead of an index of packages.
SETTINGS = ("--change=ENV PIP_NO_INDEX=1", "--change=ENV PIP_FIND_LINKS=/wheels")
PREFIX = Path(sys.base_prefix)
LIBRARY = PREFIX / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
LEFT_OUT = ("config-*", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "*.opt-?.pyc")
PROGRAMS = {PREFIX / "bin/python3": "usr/local/bin/python3", Path("/bin/sh"): "bin/sh"}
# Debian's packages, and what comes with any Debian.
PACKAGES = {Path("/usr/bin/catatonit"): "packages/catatonit"}
SCRIPTS = {
    "usr/local/bin/apt-get": """
import shutil, sys
if "install" in sys.argv:
    shutil.copy("/packages/" + sys.argv[-1], "/usr/local/bin")
""",
    "usr/local/bin/pip": """
import sys
from pip._internal.cli.main import main
sys.exit(main())
""",
    "usr/local/bin/rm": "",
}
# What a wheel may take for granted.
LIBRARIES = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")


def need_image() -> None:
    """Skip the test where it cannot be put together."""
    need("ldd")
    if Path("/usr") == PREFIX:
        pass_over("needs a Python in a folder of its own")
    if find_spec("pip") is None:
        pass_over("needs pip")


def write_image(folder: Path, wheels: Path) -> None:
    """Write its files."""
    shutil.copytree(wheels, folder / "wheels")
    library = folder / "usr/local/lib" / LIBRARY.name
    shutil.copytree(LIBRARY, library, ignore=shutil.ignore_patterns(*LEFT_OUT))
    pip = find_spec("pip")
    assert pip is not None
    assert pip.origin is not None
    shutil.copytree(Path(pip.origin).parent, library / "site-packages/pip")
    for name, text in SCRIPTS.items():
        script = folder / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!/usr/local/bin/python3{text}\n")
        script.chmod(0o755)
    copies = PROGRAMS | PACKAGES | {path: str(path)[1:] for path in linked_libraries()}
    for source, target in copies.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / target)


def linked_libraries() -> Iterator[Path]:
    """The shared libraries of everything in it."""
    programs = [*PROGRAMS, *(LIBRARY / "lib-dynload").glob("*.so")]
    linked = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True)
    found = {Path(text) for text in re.findall(r"(/\S+) \(0x", linked.stdout)}
    [libc] = [path for path in found if path.name == "libc.so.6"]
    yield from found | {path for name in LIBRARIES if (path := libc.with_name(name)).exists()}
