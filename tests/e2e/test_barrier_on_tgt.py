# SPDX-License-Identifier: Apache-2.0
"""A real target goes away under load, or is slow: nothing is lost, and nothing old lands on new."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.errors import IdentityMismatch, OutcomeUnknown, SessionFailed
from pyscsi_init.scsi import write_10
from tests.support.logs import ExpectLogs
from tests.support.proxy import TcpProxy
from tests.support.tgt import TgtServer
from tests.support.waiting import until

pytestmark = [pytest.mark.tgt, pytest.mark.anyio]

IQN = "iqn.2026-11.example:disk"
MEBI = 1 << 20
BLOCK = 4096
WAIT = Settings(recovery_timeout=None, default_time2wait=0)


@pytest.fixture
def tgt() -> Iterator[TgtServer]:
    with TgtServer() as server:
        yield server


def proxied(proxy: TcpProxy) -> str:
    return f"iscsi://{proxy.portal}/{IQN}/1"


async def test_killed_and_restarted_under_load(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=64 * MEBI)
    written: dict[int, bytes] = {}
    stop = False
    operations = 0

    async with pyscsi_init.open_lun(tgt.url(tid, 1), settings=WAIT) as lun:

        async def worker(number: int) -> None:
            nonlocal operations
            choice = random.Random(number)
            while not stop:
                block = choice.randrange(1000) * 16 + number
                data = os.urandom(16) * (BLOCK // 16)
                await lun.write(block * BLOCK, data)
                written[block] = data
                again = choice.choice(list(written))
                if again % 16 == number:
                    assert await lun.read(again * BLOCK, BLOCK) == written[again]
                operations += 1

        async def some_more() -> None:
            wanted = operations + 500
            await until(lambda: operations >= wanted)

        async with anyio.create_task_group() as workers:
            for number in range(16):
                workers.start_soon(worker, number)
            for _ in range(2):
                await some_more()
                await anyio.to_thread.run_sync(tgt.kill)
                await anyio.sleep(0.3)
                await anyio.to_thread.run_sync(tgt.restart)
            await some_more()
            stop = True
        assert lun.session.statistics.recoveries == 2
        for block, data in written.items():
            assert await lun.read(block * BLOCK, BLOCK) == data


async def test_a_held_write_never_lands_on_its_replay_or_on_a_newer_one(tmp_path: Path) -> None:
    """The write of the dead connection hangs in the backing store while we log in again: the reset
    waits for it, so replay and newer writes come after it."""
    disk = tmp_path / "disk"
    disk.touch()
    with TgtServer(fault_on=disk) as tgt, TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk, size_bytes=16 * MEBI)
        assert tgt.fault is not None
        fault = tgt.fault
        old, new, newer = (bytes([byte]) * BLOCK for byte in b"123")
        async with pyscsi_init.open_lun(proxied(proxy), settings=WAIT) as lun:
            await lun.write(8 * BLOCK, old)
            fault.hold(8 * BLOCK, 9 * BLOCK)
            finished: list[str] = []

            async def write(data: bytes, name: str) -> None:
                await lun.write(8 * BLOCK, data)
                finished.append(name)

            async with anyio.create_task_group() as writers:
                writers.start_soon(write, new, "new")
                await anyio.to_thread.run_sync(fault.wait_held)
                proxy.cut()
                # The new session reaches the reset, and the target does not answer it yet.
                await until(lambda: lun.session.statistics.logins == 2)
                await anyio.sleep(0.5)
                assert finished == []
                assert lun.session.recovering
                fault.release()
            assert finished == ["new"]
            await lun.write(8 * BLOCK, newer)
            await anyio.sleep(0.5)
            assert await lun.read(8 * BLOCK, BLOCK) == newer
        assert disk.read_bytes()[8 * BLOCK : 9 * BLOCK] == newer


async def test_a_raw_command_is_not_repeated(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    with TgtServer(fault_on=disk) as tgt, TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk, size_bytes=16 * MEBI)
        assert tgt.fault is not None
        async with pyscsi_init.open_lun(proxied(proxy), settings=WAIT) as lun:
            tgt.fault.hold(0, BLOCK)

            async def cut() -> None:
                assert tgt.fault is not None
                await anyio.to_thread.run_sync(tgt.fault.wait_held)
                proxy.cut()
                tgt.fault.release()

            async with anyio.create_task_group() as group:
                group.start_soon(cut)
                with pytest.raises(OutcomeUnknown):
                    await lun.execute(write_10(0, 8), data_out=b"r" * BLOCK)
            assert len(await lun.read(0, BLOCK)) == BLOCK


async def test_another_disk_at_the_same_address_is_never_written(
    tgt: TgtServer, tmp_path: Path, expect_logs: ExpectLogs
) -> None:
    """tgt's default identifiers are the same for both disks; the content tells them apart."""
    expect_logs("another content", logger="pyscsi_init.session")
    first, second = tmp_path / "first", tmp_path / "second"
    label = bytes(512) + b"EFI PART" + bytes(48)
    first.write_bytes((label + b"A" * 16).ljust(16 * MEBI, b"\0"))
    second.write_bytes((label + b"B" * 16).ljust(16 * MEBI, b"\0"))
    before = second.read_bytes()
    with TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, first)
        async with pyscsi_init.open_lun(proxied(proxy), settings=WAIT) as lun:
            await lun.write(MEBI, b"mine")
            proxy.refuse()
            proxy.cut()
            tgt.replace_backing(tid, 1, second)
            proxy.accept()
            with pytest.raises(IdentityMismatch, match="another content"):
                await lun.write(MEBI, b"must not land")
            with pytest.raises(IdentityMismatch):
                await lun.read(0, 512)
            assert isinstance(lun.session.failed, IdentityMismatch)
    assert second.read_bytes() == before


async def test_a_unit_that_grew_while_away_is_accepted(tgt: TgtServer, tmp_path: Path) -> None:
    with TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        async with pyscsi_init.open_lun(proxied(proxy), settings=WAIT) as lun:
            proxy.refuse()
            proxy.cut()
            tgt.grow(tid, 1, 32 * MEBI)
            proxy.accept()
            await lun.write(0, b"back")
            assert lun.size_bytes == 32 * MEBI


async def test_fail_after_a_while_and_come_back(tgt: TgtServer, tmp_path: Path) -> None:
    with TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        settings = Settings(recovery_timeout=0.5, default_time2wait=0)
        async with pyscsi_init.open_lun(proxied(proxy), settings=settings) as lun:
            await lun.write(0, b"before")
            proxy.refuse()
            proxy.cut()
            await anyio.sleep(0.1)
            with anyio.fail_after(10), pytest.raises(SessionFailed, match=r"within 0\.5 s"):
                await lun.write(0, b"during")
            proxy.accept()
            await until(lambda: not lun.session.recovering)
            await lun.write(0, b"after.")
            assert await lun.read(0, 6) == b"after."


async def test_a_cancelled_wait_ends_while_the_target_is_away(
    tgt: TgtServer, tmp_path: Path
) -> None:
    with TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        async with pyscsi_init.open_lun(proxied(proxy), settings=WAIT) as lun:
            proxy.refuse()
            proxy.cut()
            with anyio.fail_after(5):
                with anyio.move_on_after(0.3) as scope:
                    await lun.write(0, b"never")
                assert scope.cancelled_caught


async def test_a_silent_target_is_found_by_the_keepalive(tgt: TgtServer, tmp_path: Path) -> None:
    with TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        settings = Settings(
            recovery_timeout=None, default_time2wait=0, noop_interval=0.2, noop_timeout=0.2
        )
        async with pyscsi_init.open_lun(proxied(proxy), settings=settings) as lun:
            await anyio.sleep(0.7)
            assert lun.session.statistics.losses == 0
            proxy.stall()
            await until(lambda: lun.session.statistics.losses > 0)
            proxy.resume()
            proxy.cut()
            await lun.write(0, b"again")
