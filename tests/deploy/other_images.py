"""What stands in for the images of PostgreSQL and of nginx: this machine's own programs.

As the images that they stand for, they read variables and a folder of configuration.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.postgres.cluster import need_programs

NGINX = Path("/usr/sbin/nginx")
SHELL = Path("/bin/sh")

USERS = "root:x:0:0:root:/:/bin/sh\npostgres:x:999:999:postgres:/:/bin/sh\n"
GROUPS = "root:x:0:\nnogroup:x:65534:\npostgres:x:999:\n"

# Makes the user and the database when there are none yet.
START_POSTGRES = """#!/bin/sh
set -eu
export PATH={programs} PGDATA=/var/lib/postgresql/data
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb --auth=scram-sha-256 --username="$POSTGRES_USER" --pwfile=/tmp/password \\
        --encoding=UTF8 --locale=C
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "create database $POSTGRES_USER" | postgres --single -D "$PGDATA" postgres
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
POSTGRES = """
FROM scratch
COPY files /
COPY --chown=999:999 data /var/lib/postgresql/data
COPY --chown=999:999 tmp /tmp
USER 999:999
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["/bin/sh", "/start"]
"""

NGINX_CONF = """
daemon off;
user root;
error_log stderr;
pid /nginx.pid;
events {}
http {
    access_log off;
    include /etc/nginx/conf.d/*.conf;
}
"""
START_NGINX = """
FROM scratch
COPY files /
ENTRYPOINT ["/usr/sbin/nginx", "-e", "stderr"]
"""


def write_postgres_image(folder: Path) -> None:
    """Write the folder that the image of PostgreSQL is built from."""
    programs = need_programs().resolve()
    programs = (programs / "postgres").resolve().parent
    version = programs.parts[-2]
    files = folder / "files"
    used = [programs / name for name in ("postgres", "initdb")]
    # Without the compiler of expressions, which is larger than all the rest.
    libraries = [
        path for path in (programs.parent / "lib").glob("*.so") if path.name != "llvmjit.so"
    ]
    copy([*used, *libraries, SHELL], used=[*used, *libraries, SHELL], files=files)
    for each in (Path(f"/usr/share/postgresql/{version}"), Path("/usr/share/zoneinfo")):
        shutil.copytree(each, files / each.relative_to("/"), symlinks=False)
    (files / "etc").mkdir()
    (files / "etc/passwd").write_text(USERS)
    (files / "etc/group").write_text(GROUPS)
    (files / "start").write_text(START_POSTGRES.format(programs=programs))
    for empty in ("data", "tmp"):
        (folder / empty).mkdir()
    (folder / "Dockerfile").write_text(POSTGRES)


def write_nginx_image(folder: Path) -> None:
    """Write the folder that the image of nginx is built from."""
    files = folder / "files"
    copy([NGINX], used=[NGINX], files=files)
    for empty in ("etc/nginx/conf.d", "var/lib/nginx", "var/log/nginx", "tmp"):
        (files / empty).mkdir(parents=True)
    (files / "etc/passwd").write_text(USERS)
    (files / "etc/group").write_text(GROUPS)
    (files / "etc/nginx/nginx.conf").write_text(NGINX_CONF)
    (folder / "Dockerfile").write_text(START_NGINX)


def copy(paths: Iterable[Path], *, used: Iterable[Path], files: Path) -> None:
    """Copy files to where they are here, and the shared libraries that they use."""
    linked = subprocess.run(["ldd", *used], check=False, capture_output=True, text=True).stdout
    libraries = {Path(text) for text in re.findall(r"(/\S+) \(0x", linked)}
    for path in {*paths, *libraries}:
        target = files / str(path)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
