# SPDX-License-Identifier: Apache-2.0
"""Commands and write data: what tests/pyscsi_init/session/test_data_out.py does not show alone."""

from __future__ import annotations

import itertools
import os
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import DataOut, ScsiCommand, TaskManagementRequest
from pyscsi_init.testing import LogicalUnit, RamDisk
from pyscsi_init.testing.scripted import ScriptedTarget, raw
from tests.pyscsi_init.session.scripted import Script, data_of
from tests.support.scripted_session import INITIATOR, QUIET, logged_in

YES_NO = ("Yes", "No")
DIGESTS = ("None", "CRC32C")
WRITES = (0x2A, 0x8A)
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}


def both_digests(digest: str) -> tuple[Settings, dict[str, str]]:
    """The offer, and the answer."""
    settings = Settings(noop_interval=0, header_digest=(digest,), data_digest=(digest,))
    return settings, {"HeaderDigest": digest, "DataDigest": digest}


def opened(target: ScriptedTarget, settings: Settings = QUIET) -> Any:
    """A block device on the virtual clock: nothing is looked up that needs a thread."""
    return pyscsi_init.open_lun(
        target.url(), connector=target.connect, settings=settings, initiator_name=INITIATOR
    )


def meant(cdb: bytes, block: int) -> int:
    """How many bytes a CDB moves, read from the CDB alone (SPC-4, SBC-3)."""
    fields: dict[int, tuple[int, int, int]] = {
        0x00: (0, 0, 0),
        0x12: (3, 5, 1),
        0x1A: (4, 5, 1),
        0x28: (7, 9, block),
        0x2A: (7, 9, block),
        0x35: (0, 0, 0),
        0x42: (7, 9, 1),
        0x5A: (7, 9, 1),
        0x88: (10, 14, block),
        0x8A: (10, 14, block),
        0x91: (0, 0, 0),
        0x9E: (10, 14, 1),
        0xA0: (6, 10, 1),
        0xA3: (6, 10, 1),
    }
    if cdb[0] in (0x41, 0x93):  # WRITE SAME: one block, or none (NDOB)
        return 0 if cdb[0] == 0x93 and cdb[1] & 1 else block
    first, end, unit = fields[cdb[0]]
    return int.from_bytes(cdb[first:end], "big") * unit


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("block", [512, 4096])
async def test_ffp_001_002_all_that_a_block_device_sends(block: int) -> None:
    """RFC 7143 11.3.1, 11.3.4: direction and Expected Data Transfer Length are those of the CDB,
    whatever the block; some targets refuse anything else."""
    disk = RamDisk(1 << 20, block_size=block, thin=True)

    async def script() -> None:
        peer = await target.log_in()
        await peer.serve(LogicalUnit(disk))

    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        tasks.start_soon(script)
        async with opened(target) as lun:
            await lun.write(0, b"w" * 8 * block)
            await lun.write(block, b"v" * block, fua=True)
            assert await lun.read(0, 8 * block) == b"w" * block + b"v" * block + b"w" * 6 * block
            await lun.flush()
            await lun.discard(0, 8 * block)
            await lun.write_zeroes(0, 8 * block)
    commands = target.recorder.sent(ScsiCommand)
    assert {0x12, 0x28, 0x2A, 0x41} <= {command.cdb[0] for command in commands}
    reads = [command for command in commands if command.cdb[0] == 0x28]
    assert 8 * block in {command.expected_data_transfer_length for command in reads}
    for command in commands:
        length = meant(command.cdb, block)
        assert command.expected_data_transfer_length == length, command
        assert (command.read or command.write) is (length > 0), command
        writing = command.cdb[0] in (0x2A, 0x8A, 0x41, 0x42, 0x93)
        assert (command.write, command.pri) == (writing and length > 0, 0), command
        assert not (command.read and command.write)


GRID = list(itertools.product(YES_NO, YES_NO, ("512", "8192"), ("512", "4096", "65536")))


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("digest", DIGESTS)
async def test_ffp_003_004_005_007_008_the_whole_grid(digest: str) -> None:
    """RFC 7143 13.10 to 13.14: 24 sessions with InitialR2T, ImmediateData, MaxRecvDataSegmentLength
    and FirstBurstLength; whatever is written arrives, and how it comes is held against the rules of
    the scripted target PDU by PDU."""
    settings, answers = both_digests(digest)
    payload = os.urandom(1 << 18)
    for initial_r2t, immediate, segment, burst in GRID:
        disk = RamDisk(1 << 20)
        keys = {
            "InitialR2T": initial_r2t,
            "ImmediateData": immediate,
            "MaxRecvDataSegmentLength": segment,
            "FirstBurstLength": burst,
            "MaxBurstLength": "131072",
            **answers,
        }

        async def script(disk: RamDisk = disk, keys: dict[str, str] = keys) -> None:
            peer = await target.log_in(**keys)
            await peer.serve(LogicalUnit(disk))

        async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
            tasks.start_soon(script)
            async with opened(target, settings) as lun:
                for offset, length in ((0, 512), (512, 4096), (8192, 8192), (65536, 1 << 18)):
                    await lun.write(offset, payload[:length])
                    assert disk.read(offset, length) == payload[:length]
        first = target.recorder.sent(ScsiCommand, where=lambda pdu: len(pdu.data) > 0)
        assert bool(first) is (immediate == "Yes")
        unasked = target.recorder.sent(
            DataOut, where=lambda pdu: pdu.target_transfer_tag == 0xFFFFFFFF
        )
        assert bool(unasked) is (
            initial_r2t == "No" and (immediate == "No" or int(burst) > int(segment))
        )


@pytest.mark.parametrize("digest", DIGESTS)
def test_ffp_008_a_first_burst_is_a_burst(digest: str) -> None:
    """RFC 7143 13.13, 13.14: what comes unasked is a sequence too, and no longer than
    MaxBurstLength, also where the target answers a larger FirstBurstLength."""
    settings, answers = both_digests(digest)
    keys = {"MaxRecvDataSegmentLength": "512", "MaxBurstLength": "4096", **answers}
    script = Script(settings, FirstBurstLength="65536", ImmediateData="No", **keys).log_in()
    payload = os.urandom(65536)
    script.write(payload)
    command, *data = script.take()
    assert data_of(data) == payload[:4096]
    script.send(script.r2t(command, 4096, 4096))
    data = script.take()
    assert [len(pdu.data) for pdu in data] == [512] * 8
    assert data_of(data) == payload[4096:8192]
    script.send(script.r2t(command, 8192, 4097, r2t_sn=1))
    assert isinstance(script.ended().error, ProtocolError)


@pytest.mark.parametrize("digest", DIGESTS)
def test_ffp_011_an_r2t_with_data(digest: str) -> None:
    """RFC 7143 11.8: DataSegmentLength is 0; one that has data is no R2T, and gets none."""
    settings, answers = both_digests(digest)
    script = Script(settings, **ASKED, **answers).log_in()
    write = script.write(bytes(4096))
    command = script.one(ScsiCommand)
    script.send(raw(script.r2t(command, 0, 512), data=b"data"))
    assert isinstance(script.ended().error, ProtocolError)
    assert script.raw() == b""
    assert not write.done


ILLEGAL: list[dict[str, Any]] = [
    {"desired_data_transfer_length": 0},
    {"desired_data_transfer_length": 262148},
    {"target_transfer_tag": 0xFFFFFFFF},
    {"buffer_offset": 4096},
    {"buffer_offset": 0xFFFFFE00},
]


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("defect", ILLEGAL, ids=str)
async def test_ffp_011_the_write_is_done_all_the_same(defect: dict[str, Any]) -> None:
    """RFC 7143 11.8, 7.1.4.4: nothing of the caller's memory goes out; the session is recovered and
    the same data is written."""
    disk = RamDisk(1 << 20)
    payload = os.urandom(4096)
    marks: list[int] = []

    async def script() -> None:
        peer = await target.log_in(**ASKED)
        write = await peer.serve(LogicalUnit(disk), until=lambda pdu: is_write(pdu))
        assert isinstance(write, ScsiCommand)
        marks.append(target.recorder.mark())
        await peer.send(raw(peer.r2t(write, 0, 512), **defect))
        await peer.expect_end()
        marks.append(target.recorder.mark())
        peer = await target.log_in(**ASKED)
        await peer.serve(LogicalUnit(disk))

    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        tasks.start_soon(script)
        async with opened(target) as lun:
            await lun.write(8192, payload)
    assert disk.read(8192, 4096) == payload
    first = target.recorder.sent(DataOut, since=marks[0])
    assert len(first) == len(target.recorder.sent(DataOut, since=marks[1]))


def is_write(pdu: Any) -> bool:
    return isinstance(pdu, ScsiCommand) and pdu.cdb[0] in WRITES


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_ffp_024_the_first_of_three() -> None:
    """RFC 7143 11.4.2: CHECK CONDITION after one of three sequences, and an R2T that was on its
    way: it is not answered, and the next command finds the stream in step."""
    sense = bytes.fromhex("0012 700003000000000a000000000c00000000000000".replace(" ", ""))
    async with logged_in(virtual=True, **ASKED) as (session, peer), anyio.create_task_group() as tg:
        ends: list[int] = []

        async def write() -> None:
            try:
                await session.execute(0, bytes((0x2A, *bytes(15))), data_out=bytes(12288))
            except pyscsi_init.errors.MediumError as error:
                ends.append(error.asc)

        tg.start_soon(write)
        command = await peer.expect(ScsiCommand)
        await peer.send(peer.r2t(command, 0, 4096))
        assert (await peer.expect(DataOut)).final
        await peer.send(
            peer.response(command, status=2, data=sense),
            peer.r2t(command, 4096, 4096, r2t_sn=1),
            peer.r2t(command, 8192, 4096, r2t_sn=2),
        )
        await peer.expect_nothing(1)
        assert ends == [0x0C]
        tg.start_soon(session.execute, 0, bytes(6))
        await peer.send(peer.response(await peer.expect(ScsiCommand)))


@pytest.mark.anyio
@pytest.mark.parametrize("digest", DIGESTS)
async def test_ffp_025_four_mebibytes_while_the_target_does_not_read(digest: str) -> None:
    """RFC 7143 4.2.5.1: 16 MiB wait to be sent to a target that does not read but sends 4 MiB: they
    arrive, a read is given up meanwhile, and then all that was announced comes whole."""
    settings, answers = both_digests(digest)
    mebi = 1 << 20
    keys = {**ASKED, **answers, "MaxBurstLength": str(mebi), "MaxRecvDataSegmentLength": "65536"}
    payload = os.urandom(mebi)
    async with (
        logged_in(settings=settings, **keys) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        scope = anyio.CancelScope()
        here = [anyio.Event() for _ in range(4)]

        async def read(event: anyio.Event) -> None:
            result = await session.execute(0, bytes((0x28, *bytes(15))), data_in_length=mebi)
            assert result.data == payload
            event.set()

        async def given_up() -> None:
            with scope:
                await session.execute(0, bytes((0x28, *bytes(15))), data_in_length=mebi)

        for event in here:
            tasks.start_soon(read, event)
        reads = [await peer.expect(ScsiCommand) for _ in range(4)]
        tasks.start_soon(given_up)
        odd = await peer.expect(ScsiCommand)
        for _ in range(16):
            tasks.start_soon(write_of, session, payload)
        writes = [await peer.expect(ScsiCommand) for _ in range(16)]
        peer.stop_reading()
        await peer.send(*(peer.r2t(command, 0, mebi) for command in writes))
        for command in reads:
            for number in range(16):
                start = number * 65536
                part = payload[start : start + 65536]
                last = {"final": True, "status_present": True} if number == 15 else {}
                await peer.send(peer.data_in(command, start, part, data_sn=number, **last))
        with anyio.fail_after(30):
            for event in here:
                await event.wait()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        peer.read_again()
        for command in writes:
            found = bytearray()
            while len(found) < mebi:
                part = await peer.expect(DataOut, within=30)
                assert part.initiator_task_tag == command.initiator_task_tag
                found += part.data
            assert found == payload
        abort = await peer.expect(TaskManagementRequest)
        assert abort.referenced_task_tag == odd.initiator_task_tag
        await peer.send(peer.managed(abort), *(peer.response(command) for command in writes))


async def write_of(session: pyscsi_init.Session, payload: bytes) -> None:
    await session.execute(0, bytes((0x2A, *bytes(15))), data_out=payload)
