# SPDX-License-Identifier: Apache-2.0
"""An honest unit behind a scripted connection, and the fixtures."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init.pdu import DataIn, Pdu, ReadyToTransfer, ScsiCommand
from pyscsi_init.testing import LogicalUnit, RamDisk, ScriptedTarget
from pyscsi_init.testing.pytest_plugin import ServedTarget, python_target, scripted_target
from pyscsi_init.testing.scripted import Sender
from tests.support.scripted_session import INITIATOR

pytestmark = pytest.mark.anyio
__all__ = ["python_target", "scripted_target"]

NARROW = {
    "MaxRecvDataSegmentLength": "1024",
    "MaxBurstLength": "4096",
    "FirstBurstLength": "2048",
    "InitialR2T": "No",
    "HeaderDigest": "CRC32C",
    "DataDigest": "CRC32C",
}
DIGESTS = pyscsi_init.Settings(
    header_digest=("CRC32C",),
    data_digest=("CRC32C",),
    noop_interval=0,
    max_recv_data_segment_length=1024,
)


async def use_disk(target: ScriptedTarget, **how: Any) -> None:
    """Write and read back in small PDUs, with a pause of the honest unit in between."""
    disk = RamDisk(1 << 20)
    unit = LogicalUnit(disk)
    paused: list[Pdu | None] = []

    async def play() -> None:
        peer = await target.log_in(**NARROW)
        paused.append(
            await peer.serve(
                unit, until=lambda pdu: isinstance(pdu, ScsiCommand) and pdu.cdb[0] == 0x2A
            )
        )
        command = paused[0]
        assert isinstance(command, ScsiCommand)
        await peer.send(peer.response(command, status=8))
        await peer.serve(unit)

    content = os.urandom(20480)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(play)
        async with pyscsi_init.open_lun(
            target.url(), initiator_name=INITIATOR, settings=DIGESTS, **how
        ) as lun:
            await lun.write(4096, content)
            assert await lun.read(4096, 20480) == content
    assert disk.read(4096, 20480) == content
    recorder = target.recorder
    assert len(recorder.sent(ReadyToTransfer, sender=Sender.TARGET)) == 5
    assert all(len(pdu.data) <= 1024 for pdu in recorder.sent(DataIn, sender=Sender.TARGET))


async def test_over_tcp(scripted_target: ScriptedTarget) -> None:
    await use_disk(scripted_target)


@pytest.mark.virtual_clock
async def test_on_a_virtual_clock() -> None:
    async with ScriptedTarget().running() as target:
        await use_disk(target, connector=target.connect)


async def test_the_honest_fixture(python_target: ServedTarget) -> None:
    async with pyscsi_init.open_lun(python_target.url(), initiator_name=INITIATOR) as lun:
        await lun.write(0, b"x" * 4096)
        assert python_target.target.luns[0].disk.read(0, 4096) == b"x" * 4096
