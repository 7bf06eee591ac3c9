# SPDX-License-Identifier: Apache-2.0
"""A process takes over the unit of a dead one: the same barrier as after a lost connection."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init.device import UnitRecord
from pyscsi_init.errors import CapacityShrunk, IdentityMismatch
from pyscsi_init.testing import RamDisk, TargetServer
from tests.pyscsi_init.device.test_identity import BLOCK, UUID_A, UUID_B, ext
from tests.support.logs import ExpectLogs
from tests.support.proxy import TcpProxy
from tests.support.python_target import (
    INITIATOR,
    MEBI,
    PATIENCE,
    WAIT,
    RecordingDisk,
    make_target,
    until,
    url_of,
)

pytestmark = pytest.mark.anyio

ISID = bytes.fromhex("800001020003")
LOGICAL_UNIT_RESET = 5


async def record_of(address: object) -> UnitRecord:
    async with pyscsi_init.open_lun(
        url_of(address), settings=WAIT, initiator_name=INITIATOR, isid=ISID
    ) as lun:
        return lun.record()


@pytest.mark.parametrize("unknown", [True, False])
async def test_the_unit_is_reset_where_a_write_may_be_under_way(unknown: bool) -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal:
        record = await record_of(portal.address)
        async with pyscsi_init.open_lun(
            url_of(portal.address),
            settings=WAIT,
            initiator_name=INITIATOR,
            isid=ISID,
            predecessor=record,
            unknown_outcome=unknown,
        ) as lun:
            await lun.write(0, b"x" * BLOCK)
        assert target.counters.task_management[LOGICAL_UNIT_RESET] == unknown


@pytest.mark.parametrize("barrier", [True, False], ids=["reset-waits", "reset-does-not-wait"])
async def test_a_write_of_the_dead_process_lands_before_newer_ones(barrier: bool) -> None:
    """The dead one's way to the target is cut for good, its write is held back by the medium."""
    disk = RecordingDisk(16 * MEBI)
    target = make_target(disk, writes_outlive_session=True, reset_waits_for_writes=barrier)
    me: Any = {"settings": WAIT, "initiator_name": INITIATOR, "isid": ISID}
    async with TargetServer([target]).running() as portal:
        held = target.faults.hold_writes(lba=4096, times=1)
        records: list[UnitRecord] = []
        host, _, port = portal.address.rpartition(":")

        async def predecessor(address: str) -> None:
            async with pyscsi_init.open_lun(url_of(address), **me) as lun:
                records.append(lun.record())
                await lun.write(4096 * 512, b"1" * BLOCK)

        async def let_it_land() -> None:
            await until(lambda: target.counters.task_management[LOGICAL_UNIT_RESET])
            held.release()

        with TcpProxy((host, int(port))) as proxy:
            async with anyio.create_task_group() as group:
                group.start_soon(predecessor, proxy.portal)
                with anyio.fail_after(PATIENCE):
                    await held.wait()
                proxy.refuse()
                proxy.cut()
                if barrier:
                    group.start_soon(let_it_land)
                async with pyscsi_init.open_lun(
                    url_of(portal.address), predecessor=records[0], unknown_outcome=True, **me
                ) as lun:
                    await lun.write(4096 * 512, b"2" * BLOCK)
                    held.release()
                group.cancel_scope.cancel()
        order = [first for _, first in disk.writes[:2]]
        assert order == ([b"1", b"2"] if barrier else [b"2", b"1"])


async def test_another_disk_behind_the_address_is_refused() -> None:
    disk = RamDisk(16 * MEBI, serial="one")
    offset, block = ext(UUID_A)
    disk.write(offset, block)
    async with TargetServer([make_target(disk)]).running() as portal:
        record = await record_of(portal.address)
        disk.write(*ext(UUID_B))
        with pytest.raises(IdentityMismatch, match="another content"):
            async with pyscsi_init.open_lun(
                url_of(portal.address), settings=WAIT, predecessor=record
            ):
                pass
    async with TargetServer([make_target(RamDisk(8 * MEBI, serial="one"))]).running() as portal:
        with pytest.raises(CapacityShrunk):
            async with pyscsi_init.open_lun(
                url_of(portal.address), settings=WAIT, predecessor=record
            ):
                pass


async def test_the_record_changes_before_the_write_that_changes_it_is_done() -> None:
    """mkfs by our own hands: whoever puts the record down at each change is never behind."""
    async with TargetServer([make_target()]).running() as portal:
        url = url_of(portal.address)
        async with pyscsi_init.open_lun(url, settings=WAIT, initiator_name=INITIATOR) as lun:
            notes: list[UnitRecord] = []
            lun.record_changed.append(lambda: notes.append(lun.record()))
            await lun.write(2 * MEBI, os.urandom(BLOCK))
            assert notes == []
            offset, block = ext(UUID_A)
            await lun.write(0, bytes(offset) + block + bytes(-(offset + len(block)) % BLOCK))
            assert notes
        async with pyscsi_init.open_lun(url, settings=WAIT, predecessor=notes[0]):
            pass
        async with pyscsi_init.open_lun(url, settings=WAIT, predecessor=notes[-1]):
            pass


async def test_a_look_at_the_capacity_finds_another_disk(expect_logs: ExpectLogs) -> None:
    """Swapped under a live session, which no unit attention tells of."""
    expect_logs("another content", logger="pyscsi_init.session")
    disk = RamDisk(16 * MEBI)
    disk.write(*ext(UUID_A))
    async with (
        TargetServer([make_target(disk)]).running() as portal,
        pyscsi_init.open_lun(url_of(portal.address), settings=WAIT) as lun,
    ):
        assert await lun.refresh_capacity() == 16 * MEBI
        disk.write(*ext(UUID_B))
        with pytest.raises(IdentityMismatch, match="another content"):
            await lun.refresh_capacity()
        with pytest.raises(IdentityMismatch):
            await lun.write(0, b"x" * BLOCK)
