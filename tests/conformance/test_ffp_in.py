# SPDX-License-Identifier: Apache-2.0
"""Read data and status: what tests/pyscsi_init/session/test_data_in.py does not show alone."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import ScsiResult, Session, Settings
from pyscsi_init.errors import (
    CheckCondition,
    DeliveryFailure,
    OutcomeUnknown,
    ProtocolError,
    TaskError,
)
from pyscsi_init.pdu import ScsiCommand
from pyscsi_init.session import Replay, ScsiTask
from pyscsi_init.testing import LogicalUnit, RamDisk
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.pyscsi_init.session.scripted import LUN, READ_CDB, Script
from tests.support.scripted_session import INITIATOR, QUIET, logged_in

DIGESTS = ("None", "CRC32C")
READS = (0x28, 0x88)
GUARD = 4096
SENSE = bytes.fromhex("700003000000000a00000000110000000000")
LAST = {"final": True, "status_present": True}


def both_digests(digest: str) -> tuple[Settings, dict[str, str]]:
    """The offer, and the answer."""
    settings = Settings(noop_interval=0, header_digest=(digest,), data_digest=(digest,))
    return settings, {"HeaderDigest": digest, "DataDigest": digest}


def is_read(pdu: Any) -> bool:
    return isinstance(pdu, ScsiCommand) and pdu.cdb[0] in READS


class Guarded:
    """A read into the middle of a larger buffer."""

    def __init__(self, script: Script, length: int) -> None:
        self.memory = bytearray(b"\xee" * (length + 2 * GUARD))
        self.times = 0
        view = memoryview(self.memory)[GUARD : GUARD + length]
        self.task = ScsiTask(
            LUN, READ_CDB, self.ended, data_in=view, replay=Replay.SAFE, modifies=False
        )
        script.submit(self.task)

    def ended(self, _: Any) -> None:
        self.times += 1

    @property
    def untouched(self) -> bool:
        """Nothing was written beside the buffer."""
        edges = self.memory[:GUARD] + self.memory[-GUARD:]
        return edges == b"\xee" * 2 * GUARD


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("split", [0, 997, 16384])
async def test_ffp_012_three_sequences(digest: str, split: int) -> None:
    """RFC 7143 11.7.5, 11.7.7: 64 KiB as three sequences of PDUs of several sizes, one of them
    empty, each sequence with F at its end; DataSN runs on. However the bytes come, they are placed
    right."""
    settings, answers = both_digests(digest)
    payload = os.urandom(65536)
    pieces = [(8192, False), (512, True), (0, False), (40000, True), (16828, False), (4, True)]
    async with (
        logged_in(virtual=True, settings=settings, **answers) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        results: list[ScsiResult] = []

        async def read() -> None:
            results.append(await session.execute(0, READ_CDB, data_in_length=65536))

        for _ in range(3):
            tasks.start_soon(read)
        for number in range(3):
            command = await peer.expect(ScsiCommand)
            offset, pdus = 0, []
            for data_sn, (length, final) in enumerate(pieces):
                part = payload[offset : offset + length]
                fields: dict[str, Any] = {"data_sn": data_sn, "final": final}
                if number == 1 and data_sn == len(pieces) - 1:
                    fields["status_present"] = True
                pdus.append(peer.data_in(command, offset, part, **fields))
                offset += length
            await peer.send(*pdus, split=split)
            if number != 1:
                await peer.send(peer.response(command, exp_data_sn=len(pieces)))
        await peer.expect_nothing(1)
        assert [result.data == payload for result in results] == [True] * 3


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("numbers", [(0, 2), (0, 0), (1, 2), (0, 0x80000001)], ids=str)
def test_ffp_012_016_a_number_that_is_missing(numbers: tuple[int, int], digest: str) -> None:
    """RFC 7143 11.7.5, 7.9: a gap in DataSN is one also where no byte is missing: a PDU without
    data may be what was lost."""
    settings, answers = both_digests(digest)
    script = Script(settings, **answers).log_in()
    done = script.read(0)
    script.send(script.response(script.one(ScsiCommand)))
    assert done.done
    read = script.read(1024)
    command = script.one(ScsiCommand)
    script.send(
        script.data_in(command, 0, bytes(512), data_sn=numbers[0]),
        script.data_in(command, 512, bytes(512), data_sn=numbers[1], **LAST),
    )
    assert isinstance(script.ended().error, ProtocolError)
    assert not read.done


@pytest.mark.parametrize("answer", ["Yes", ""])
@pytest.mark.parametrize("digest", DIGESTS)
def test_ffp_013_disorder_whoever_said_nothing(answer: str, digest: str) -> None:
    """RFC 7143 13.18: Yes is offered, so Yes is the result, also of an answer that is missing; data
    at 2048, 0, 1024 is then an error and no read."""
    settings, answers = both_digests(digest)
    order = {"DataPDUInOrder": answer, "DataSequenceInOrder": answer}
    script = Script(settings, **order, **answers).log_in()
    assert script.machine.parameters.data_pdu_in_order
    read = Guarded(script, 4096)
    command = script.one(ScsiCommand)
    for data_sn, offset in enumerate((2048, 0, 1024)):
        script.send(script.data_in(command, offset, bytes(1024), data_sn=data_sn))
    assert isinstance(script.ended().error, ProtocolError)
    assert read.times == 0


BEYOND: list[tuple[str, list[tuple[int, int]]]] = [
    ("at the end", [(65536, 512)]),
    ("far away", [(0xFFFFFFF0, 512)]),
    ("twice as much", [(0, 65536), (65536, 65536)]),
    ("one more", [(0, 32768), (32768, 32769)]),
    ("from the last byte", [(0, 65532), (65532, 8)]),
]


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("step", [0, 1000, 48])
@pytest.mark.parametrize(("what", "pieces"), BEYOND, ids=[what for what, _ in BEYOND])
def test_ffp_014_nothing_beside_the_buffer(
    what: str, pieces: list[tuple[int, int]], step: int, fast: bool, digest: str
) -> None:
    """RFC 7143 11.7.6, 7.7: also where a long PDU is received straight into the buffer, and where
    it comes in pieces."""
    del what
    settings, answers = both_digests(digest)
    script = Script(settings, **answers).log_in()
    script.machine.fast.enabled = fast
    script.machine.fast.review()
    for _ in range(2):
        done = script.read(0)
        script.send(script.response(script.one(ScsiCommand)))
        assert done.done
    read = Guarded(script, 65536)
    command = script.one(ScsiCommand)
    pdus = [
        script.data_in(command, offset, b"\xdd" * length, data_sn=number)
        for number, (offset, length) in enumerate(pieces)
    ]
    script.send(*pdus, step=step)
    assert isinstance(script.ended().error, ProtocolError)
    assert (read.untouched, read.times) == (True, 0)
    assert len(read.memory) == 65536 + 2 * GUARD


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("status", [0x00, 0x04])
@pytest.mark.parametrize(("bit", "length"), [("overflow", 512), ("underflow", 0)])
def test_ffp_015_residuals_with_the_status(digest: str, status: int, bit: str, length: int) -> None:
    """RFC 7143 11.7.3: O or U in the last Data-In, which may be empty."""
    settings, answers = both_digests(digest)
    script = Script(settings, **answers).log_in()
    read = script.read(512)
    command = script.one(ScsiCommand)
    fields = {f"residual_{bit}": True, "residual_count": 512, "status": status}
    script.send(script.data_in(command, 0, b"d" * length, **LAST, **fields))
    assert (read.done, read.error) == (True, None)
    task = read.task
    assert (task.status, task.received, task.residual_count) == (status, length, 512)
    assert (task.residual_overflow, task.residual_underflow) == (
        bit == "overflow",
        bit == "underflow",
    )


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("size", [512, 32768])
@pytest.mark.parametrize("left_out", [2, 3])
async def test_ffp_016_019_a_hole_and_a_good_status(digest: str, size: int, left_out: int) -> None:
    """RFC 7143 11.4.8, 7.9, 7.1.4.4: one of four Data-In PDUs does not come, GOOD does. The session
    is recovered, and what the application reads is what is on the disk."""
    settings, answers = both_digests(digest)
    disk = RamDisk(1 << 20)
    payload = os.urandom(4 * size)
    disk.write(0, payload)

    async def script() -> None:
        peer = await target.log_in(**answers)
        read = await peer.serve(LogicalUnit(disk), until=is_whole_read)
        assert isinstance(read, ScsiCommand)
        for number in range(4):
            if number != left_out:
                part = payload[number * size : (number + 1) * size]
                await peer.send(peer.data_in(read, number * size, part, data_sn=number))
        await peer.send(peer.response(read, exp_data_sn=4))
        await peer.expect_end()
        peer = await target.log_in(**answers)
        await peer.serve(LogicalUnit(disk))

    def is_whole_read(pdu: Any) -> bool:
        return is_read(pdu) and pdu.expected_data_transfer_length == 4 * size

    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        tasks.start_soon(script)
        async with opened(target, settings) as lun:
            assert await lun.read(0, 4 * size) == payload
            assert lun.session.statistics.recoveries == 1


def opened(target: ScriptedTarget, settings: Settings = QUIET) -> Any:
    """A block device on the virtual clock: nothing is looked up that needs a thread."""
    return pyscsi_init.open_lun(
        target.url(), connector=target.connect, settings=settings, initiator_name=INITIATOR
    )


async def ended(session: Session, length: int, found: list[Any], **kw: Any) -> None:
    """What the application gets of a command."""
    try:
        found.append(await session.execute(0, READ_CDB, data_in_length=length, **kw))
    except (CheckCondition, TaskError) as error:
        found.append(error)


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("digest", DIGESTS)
async def test_ffp_017_018_what_the_application_is_told(digest: str) -> None:
    """RFC 7143 11.4.5: data, length and residual of a short read, also beside CHECK CONDITION; and
    that there was more; a count without its bit is nothing."""
    settings, answers = both_digests(digest)
    async with (
        logged_in(virtual=True, settings=settings, **answers) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        found: list[Any] = []

        async def answered(length: int, sent: bytes, **fields: Any) -> Any:
            tasks.start_soon(ended, session, length, found)
            command = await peer.expect(ScsiCommand)
            await peer.send(
                peer.data_in(command, 0, sent, final=True),
                peer.response(command, exp_data_sn=1, **fields),
            )
            await peer.expect_nothing(1)
            return found.pop()

        short = {"residual_underflow": True, "residual_count": 219}
        result = await answered(255, b"i" * 36, **short)
        assert (result.data, result.residual_count) == (b"i" * 36, 219)
        assert (result.residual_underflow, result.residual_overflow) == (True, False)
        sense = len(SENSE).to_bytes(2, "big") + SENSE
        error = await answered(255, b"i" * 36, status=2, data=sense, **short)
        assert isinstance(error, CheckCondition)
        assert (error.result.data, error.result.residual_count) == (b"i" * 36, 219)
        assert error.result.residual_underflow
        result = await answered(512, b"d" * 512, residual_overflow=True, residual_count=100)
        assert (result.data, result.residual_count) == (b"d" * 512, 100)
        assert (result.residual_underflow, result.residual_overflow) == (False, True)
        result = await answered(512, b"d" * 512, residual_count=0xDEADBEEF)
        assert (result.data, result.residual_count) == (b"d" * 512, 0)


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("response", [0x01, 0x80, 0xFF])
async def test_ffp_020_service_delivery_or_target_failure(response: int) -> None:
    """RFC 7143 11.4.3: whatever Status and flags say; and a connection that ends without a response
    is a failure of the same family, with an outcome that nobody knows."""
    async with logged_in(virtual=True, log_out=False) as (session, peer):
        async with anyio.create_task_group() as tasks:
            found: list[Any] = []
            tasks.start_soon(ended, session, 512, found)
            command = await peer.expect(ScsiCommand)
            fields = {"residual_underflow": True, "residual_count": 512, "status": 0}
            await peer.send(peer.response(command, response=response, **fields))
            await peer.expect_nothing(1)
            tasks.start_soon(ended, session, 512, found)
            await peer.expect(ScsiCommand)
            peer.fin()
        first, second = found
        assert isinstance(first, DeliveryFailure)
        assert first.response == response
        assert isinstance(second, OutcomeUnknown)


TRANSPORT = {
    "unexpected unsolicited data": (0x0C, 0x0C),
    "incorrect amount of data": (0x0C, 0x0D),
    "protocol service CRC error": (0x47, 0x05),
    "SNACK rejected": (0x11, 0x13),
}


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("condition", TRANSPORT)
@pytest.mark.parametrize("opcodes", [(0x28, 0x88), (0x2A, 0x8A)], ids=["read", "write"])
async def test_ffp_022_sent_again_as_a_new_command(condition: str, opcodes: Any) -> None:
    """RFC 7143 11.4.7.2: ABORTED COMMAND that iSCSI itself caused: the same CDB goes out again with
    a tag and a CmdSN of its own, on the same connection, and succeeds."""
    asc, ascq = TRANSPORT[condition]
    sense = bytes((0x70, 0, 0x0B, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))
    disk = RamDisk(1 << 20)

    def wanted(pdu: Any) -> bool:
        return isinstance(pdu, ScsiCommand) and pdu.cdb[0] in opcodes and pdu.cdb[5] == 16

    async def script() -> None:
        peer = await target.log_in()
        command = await peer.serve(LogicalUnit(disk), until=wanted)
        assert isinstance(command, ScsiCommand)
        data = len(sense).to_bytes(2, "big") + sense
        await peer.send(peer.response(command, status=2, data=data))
        await peer.serve(LogicalUnit(disk))

    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        tasks.start_soon(script)
        async with opened(target) as lun:
            if opcodes[0] == 0x28:
                assert await lun.read(8192, 512) == bytes(512)
            else:
                await lun.write(8192, b"w" * 512)
                assert disk.read(8192, 512) == b"w" * 512
            assert lun.session.statistics.logins == 1
    first, second = target.recorder.sent(ScsiCommand, where=wanted)
    assert first.cdb == second.cdb
    assert first.initiator_task_tag != second.initiator_task_tag
    assert first.cmd_sn != second.cmd_sn
