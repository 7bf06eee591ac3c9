# SPDX-License-Identifier: Apache-2.0
"""The level of a file system: ext4 on the loop device, beside the C peers that write correctly.

Each has a LUN of its own, formatted alike, with a file for fio and a database for pgbench on it. A
checkpoint comes before each run of pgbench and none during it, so that all begin alike.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusefs.host.filesystems import maker
from tests.support import processes

from . import criteria, fio
from .criteria import CORRECT_PEERS
from .level import Context, Level
from .model import OURS, Case
from .peers import peer
from .processes import Failed, cpu_seconds, processes_of, run
from .volumes import mounted

FSYNC = Case("randwrite", 4096, 1, "fsync each, 4 jobs")
CASES = [criteria.READ_32, criteria.WRITE_32, FSYNC, criteria.PGBENCH]
FILE_BYTES = 256 << 20
SCALE, CLIENTS = 10, 4
"""pgbench: 160 MB of tables. Each transaction ends with a commit that is flushed."""
OPTIONS = {
    "listen_addresses": "",
    "max_wal_size": "800MB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A mounted file system with what is measured on it."""

    file: Path
    database: Path
    """The directory of its server's socket."""
    pids: tuple[int, ...]


@contextlib.contextmanager
def ext4(context: Context) -> Iterator[Level]:
    """The level, on three LUNs of its own."""
    urls = context.luns("ext4")
    with contextlib.ExitStack() as stack:
        served: dict[str, Served] = {}
        for number, subject in enumerate((OURS, *CORRECT_PEERS)):
            directory = context.directory / f"ext4-{number}"
            if subject == OURS:
                volume = stack.enter_context(mounted(context, urls[number], "ext4", directory))
                pids: tuple[int, ...] = (volume["worker_pid"],)
            else:
                pids = stack.enter_context(_mounted_peer(context, subject, urls[number], directory))
            file = directory / "fio"
            if any(case.block_size for case in context.chosen(CASES)):
                context.step(f"fill a file for {subject}")
                _fill(file)
            socket = context.directory / f"postgres-{number}"
            if criteria.PGBENCH in context.chosen(CASES):
                context.step(f"make a database for {subject}")
                stack.enter_context(_database(directory / "postgres", socket))
            served[subject] = Served(file, socket, pids)

        def measure(case: Case, subject: str) -> dict[str, float]:
            it = served[subject]
            if case == criteria.PGBENCH:
                return pgbench(it, context.seconds)
            extra = [f"--size={FILE_BYTES}", "--overwrite=1"]
            if case == FSYNC:
                extra += ["--fsync=1", "--numjobs=4"]
            return fio.measure([str(it.file)], case, context.seconds, it.pids, extra=extra)

        yield Level("ext4", CASES, lambda _: [OURS, *CORRECT_PEERS], measure)


@contextlib.contextmanager
def _mounted_peer(
    context: Context, kind: str, url: str, directory: Path
) -> Iterator[tuple[int, ...]]:
    with peer(context, kind, url) as served:
        how = maker("ext4")
        run([how.program, *how.arguments, served.device])
        directory.mkdir()
        run(["mount", "-t", "ext4", served.device, str(directory)])
        try:
            yield served.pids
        finally:
            run(["umount", str(directory)], seconds=120)


def _fill(path: Path) -> None:
    run([
        "fio", "--name=fill", f"--filename={path}", f"--size={FILE_BYTES}", "--rw=write",
        "--bs=1M", "--direct=1", "--ioengine=libaio", "--iodepth=4", "--end_fsync=1",
    ])  # fmt: skip


# -- PostgreSQL -----------------------------------------------------------------------------------


def _program(name: str) -> str:
    """A program of the newest PostgreSQL of Debian, which does not put them into PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4])
    )
    if not found:
        raise Failed("PostgreSQL is not there; `make bench` installs it")
    return str(found[-1])


@contextlib.contextmanager
def _database(data: Path, socket: Path) -> Iterator[None]:
    """A server of its own, with its data on the volume, that listens on a socket only."""
    user = pwd.getpwnam("postgres")
    for directory in (data, socket):
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)
        os.chown(directory, user.pw_uid, user.pw_gid)

    def as_user(*command: str, seconds: float = 120) -> str:
        return run(command, user="postgres", cwd=socket, seconds=seconds)

    as_user(
        _program("initdb"), "--pgdata", str(data), "--username=postgres", "--auth=trust",
        "--locale=C.UTF-8",
    )  # fmt: skip
    options = " ".join(f"-c {name}='{value}'" for name, value in OPTIONS.items())
    start = [
        _program("pg_ctl"), "--pgdata", str(data), "--wait", "--silent", "--log", f"{socket}/log",
        "--options", f"{options} -c unix_socket_directories='{socket}'",
    ]  # fmt: skip
    try:
        as_user(*start, "start")
        as_user("createdb", "--host", str(socket), "bench")
        as_user(
            _program("pgbench"), "--host", str(socket), "--initialize", "--quiet",
            f"--scale={SCALE}", "bench",
        )  # fmt: skip
        yield
    finally:
        if (data / "postmaster.pid").exists():
            with contextlib.suppress(Failed):
                as_user(_program("pg_ctl"), "--pgdata", str(data), "--mode=fast", "--wait", "stop")
        for pid in processes_of(data):  # a server whose start was cut short
            processes.end(pid)


def pgbench(served: Served, seconds: float) -> dict[str, float]:
    """One run of pgbench: longer than others, since transactions vary more than single I/Os."""
    length = max(1, round(seconds * 2.5))
    host = ("--host", str(served.database))
    run(["psql", *host, "--quiet", "--command=CHECKPOINT", "bench"], user="postgres")
    before = cpu_seconds(served.pids)
    output = run(
        [
            _program("pgbench"), *host, "--no-vacuum", f"--client={CLIENTS}", "--jobs=2",
            f"--time={length}", "bench",
        ],
        user="postgres",
        seconds=length + 60,
    )  # fmt: skip
    cpu = cpu_seconds(served.pids) - before
    return pgbench_figures(output, cpu)


def pgbench_figures(output: str, cpu: float) -> dict[str, float]:
    """The values of a sample from what pgbench prints; CPU time is for each transaction.

    Raises:
        Failed: they are not there.
    """
    tps = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    count = re.search(r"^number of transactions actually processed: (\d+)", output, re.MULTILINE)
    latency = re.search(r"^latency average = ([\d.]+) ms", output, re.MULTILINE)
    if not (tps and count and latency) or not int(count[1]):
        raise Failed(f"pgbench printed no figures:\n{output}")
    return {
        "tps": float(tps[1]),
        "cpu_us": cpu / int(count[1]) * 1e6,
        "mean_us": float(latency[1]) * 1000,
    }
