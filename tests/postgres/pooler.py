"""A PgBouncer of a test run's own, before its server."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from tests.docs.machine import need
from tests.postgres.cluster import Cluster


class Pooler:
    """Passes transactions of many clients on over few connections.

    Args:
        cluster: The server behind it.
        mode: For how long a client has a connection to it.
    """

    def __init__(
        self, cluster: Cluster, mode: Literal["session", "transaction"] = "transaction"
    ) -> None:
        need("pgbouncer")
        self.folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self.folder.chmod(0o755)
        if cluster.user is not None:
            shutil.chown(self.folder, cluster.user)
        (self.folder / "users").write_text('"postgres" ""\n')
        (self.folder / "pgbouncer.ini").write_text(f"""\
[databases]
* = host={cluster.folder}
[pgbouncer]
pool_mode = {mode}
default_pool_size = 4
auth_type = trust
auth_file = {self.folder}/users
listen_port = 5432
unix_socket_dir = {self.folder}
log_connections = 0
log_disconnections = 0
""")
        self._process = subprocess.Popen(
            ["pgbouncer", self.folder / "pgbouncer.ini"],
            user=cluster.user,
            group=cluster.user,
            extra_groups=None if cluster.user is None else [],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "process up" in line:
                return
        raise AssertionError("PgBouncer has not started")

    def url(self, database: str) -> str:
        """The URL of a database through the pooler."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def remove(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self.folder)
