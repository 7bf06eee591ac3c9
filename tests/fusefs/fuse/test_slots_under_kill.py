# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the server at random moments, under writers who know what each block must hold.

No request may fail, none may be lost, and every block must be the newest.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from tests.support.block_writers import Writer
from tests.support.fio import fio_verify
from tests.support.fuse_server import loop_device
from tests.support.killed_server import KilledServer
from tests.support.requirements import require_module
from tests.support.waiting import until

pytestmark = pytest.mark.root

WRITERS = 12
BLOCKS = 640
"""Of each writer: few enough that blocks are written often."""
SIZE = WRITERS * BLOCKS * 4096


def kill_under_writers(server: KilledServer, path: Path) -> list[int]:
    """Runs writers on ``path`` until the kills are done; how many requests each of these left."""
    stop = threading.Event()
    writers = [Writer(str(path), number * BLOCKS, BLOCKS, number) for number in range(WRITERS)]
    try:
        with ThreadPoolExecutor(WRITERS) as threads:
            try:
                runs = [threads.submit(writer.run, stop) for writer in writers]
                left = server.kills()
                stop.set()
                for run in runs:
                    run.result(30)
                for writer in writers:
                    writer.check_all()
            except BaseException:
                stop.set()
                server.host.fuse_abort(server.connection)
                raise
    finally:
        for writer in writers:
            writer.close()
    return left


@pytest.mark.parametrize(
    ("loop", "kills"),
    [
        ("uvloop", 20),
        ("trio", 8),
        pytest.param("uvloop", 400, marks=pytest.mark.soak),
        pytest.param("asyncio", 200, marks=pytest.mark.soak),
        pytest.param("trio", 200, marks=pytest.mark.soak),
    ],
)
def test_no_write_is_lost_or_stale(tmp_path: Path, loop: str, kills: int) -> None:
    if loop == "uvloop":
        require_module("uvloop")
    with KilledServer(tmp_path, loop=loop, size=SIZE, kills=kills, seed=kills) as server:
        left = kill_under_writers(server, server.path)
        # Who asked may hear the answer before the server has cleared the slot.
        anyio.run(until, lambda: not server.slots.outstanding(), 5)
    assert len(left) == kills
    assert sum(count > 0 for count in left) >= kills // 2, "the kills came when nothing went on"


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.soak)])
def test_a_loop_device_sees_no_error(tmp_path: Path, kills: int) -> None:
    with KilledServer(tmp_path, size=SIZE, kills=kills, seed=1) as server:
        with loop_device(server.path) as loop:
            left = kill_under_writers(server, Path(loop))
            fio_verify(loop, size=SIZE // 2, bs="64k", loops=1, iodepth=32)
        assert sum(count > 0 for count in left) >= kills // 2


def test_a_stale_block_would_be_found(tmp_path: Path) -> None:
    """The proof that the tests above can fail."""
    with KilledServer(tmp_path, size=SIZE, kills=0) as server:
        server.kills()
        writer = Writer(str(server.path), 0, 64, 0)
        writer.write(0, 64)
        writer.write(3, 1)
        writer.check_all()
        writer.versions[3] = 1
        writer.write(5, 1)
        with pytest.raises(AssertionError, match="block 3 version 1: found 3 version 2"):
            writer.check_all()
        writer.close()
