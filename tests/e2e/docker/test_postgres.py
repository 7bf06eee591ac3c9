# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL in a container, its data on a volume, while the target is away and the worker dies.

Transactions wait and none fails; every one that was acknowledged is there afterwards, every page
has the checksum that it should have, and every index agrees with its table.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.docker.storage import Storage
from tests.support import images
from tests.support.dockerd import DockerEngine
from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]

MEBI = 1 << 20
CLIENTS = 4
START_S = 240.0
AFTERWARDS_S = 8
"""pgbench goes on for at least so long when the target is back."""
QUIET = re.compile(r"^progress: .* 0\.0 tps", re.MULTILINE)


class Database:
    """A PostgreSQL container, and commands in it."""

    def __init__(self, engine: DockerEngine, volume: str) -> None:
        self._engine = engine
        self._volume = volume
        # On the volume a directory, because initdb wants an empty one. Little memory for pages, so
        # that they are read from the volume again and again.
        self._environment = ("--env", "PGDATA=/data/pgdata", "--env", "PGUSER=postgres")
        engine.docker(
            *("run", "--detach", "--name", "database", "--network", "none", "--shm-size=128m"),
            *("--volume", f"{volume}:/data", *self._environment),
            *("--env", "POSTGRES_INITDB_ARGS=--data-checksums", images.POSTGRES),
            *("postgres", "-c", "shared_buffers=8MB", "-c", "checkpoint_timeout=30s"),
        )
        wait_until(self._is_ready, START_S, "PostgreSQL takes connections")

    def _is_ready(self) -> bool:
        # Over TCP, because initdb's own server has the Unix socket only.
        ready = ("exec", "database", "pg_isready", "--host=127.0.0.1")
        return "accepting" in self._engine.docker(*ready, check=False)

    def run(self, *command: str) -> str:
        """A command in it."""
        return self._engine.docker("exec", "database", *command)

    def query(self, text: str) -> str:
        """What a query answers, without titles."""
        return self.run("psql", "-qAt", "-c", text, "postgres").strip()

    def stop(self) -> None:
        """An orderly end."""
        self._engine.docker("stop", "--time", "120", "database")
        self._engine.docker("rm", "database")

    def check_pages(self) -> str:
        """pg_checksums over the whole cluster, which does not run."""
        return self._engine.docker(
            *("run", "--rm", "--network", "none", "--volume", f"{self._volume}:/data:ro"),
            *("--user", "postgres", *self._environment, images.POSTGRES),
            *("pg_checksums", "--check", "--pgdata=/data/pgdata"),
        )


@pytest.mark.parametrize("away_s", [4, pytest.param(30, marks=pytest.mark.soak)])
def test_no_transaction_fails(tmp_path: Path, storage: Storage, away_s: int) -> None:
    with DockerEngine(tmp_path) as engine, TcpProxy(("127.0.0.1", storage.tgt.port)) as proxy:
        engine.import_image(images.postgres_archive(), images.POSTGRES, images.POSTGRES_CHANGES)
        storage.volume(engine, "data", portal=proxy.portal, size_bytes=512 * MEBI)
        database = Database(engine, "data")
        database.run("pgbench", "--initialize", "--quiet", "--scale=2", "postgres")
        log = engine.directory / "pgbench.log"
        bench = engine.start(
            *("docker", "exec", "database", "pgbench", f"--client={CLIENTS}", "--progress=1"),
            *(f"--time={away_s + AFTERWARDS_S}", "postgres"),
            log=log,
        )
        wait_until(lambda: "progress: 2" in log.read_text(), START_S, "pgbench runs")
        (volume,) = engine.volumes()
        proxy.refuse()
        proxy.cut()
        begun = time.monotonic()
        os.kill(volume["worker_pid"], signal.SIGKILL)
        time.sleep(away_s)  # the target is away for so long
        assert bench.poll() is None, log.read_text()
        proxy.accept()
        assert bench.wait(START_S) == 0, log.read_text() + engine.logs()
        told = log.read_text()
        print(f"\naway {time.monotonic() - begun:.1f} s in all\n{told}")  # noqa: T201  (for people)
        assert QUIET.search(told), f"the target was not away:\n{told}"
        assert "number of failed transactions: 0 " in told
        done = re.search(r"transactions actually processed: (\d+)", told)
        assert done
        (volume,) = engine.volumes()
        assert volume["restarts"] == 1
        assert volume["io"]["errors"] == 0
        assert database.query("select count(*) from pgbench_history") == done[1]
        database.run("pg_amcheck", "--install-missing", "--heapallindexed", "postgres")
        database.stop()
        assert re.search(r"Bad checksums:\s+0$", database.check_pages(), re.MULTILINE)
        storage.check_all_is_gone(engine)
