# SPDX-License-Identifier: Apache-2.0
"""PDUs and their tasks: CDBs, LUNs and tags (RFC 7143 11.2.1.7, 11.2.1.8, 11.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import (
    DataOut,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.session import TaskManagementFunction, Warned
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN_5, RESERVED, Script
from tests.support.scripted_session import logged_in

TEST_UNIT_READY = bytes(6)
LONG_CDB = bytes((0x7F, 0, 0, 0, 0, 0, 0, 24, 0, 9)) + bytes(range(10, 32))
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_pdu_008_a_long_cdb_goes_on_in_an_ahs() -> None:
    """RFC 7143 11.2.2.3: 16 bytes in the BHS and the rest in an Extended CDB AHS."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        for cdb in (LONG_CDB, LONG_CDB[:17], LONG_CDB[:16], TEST_UNIT_READY):
            tasks.start_soon(session.execute, 0, cdb)
            command = await peer.expect(ScsiCommand)
            wire = peer.recorder.entries[-1].wire
            assert wire.header[32:48] == cdb[:16].ljust(16, b"\0")
            assert wire.header[4] == len(wire.ahs) // 4
            if len(cdb) == 32:
                assert wire.ahs.hex() == "00110100" + cdb[16:].hex()
            elif len(cdb) == 17:
                assert wire.ahs.hex() == "00020100" + cdb[16:].hex() + "000000"
            else:
                assert wire.ahs == b""
            await peer.send(peer.response(command))


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_pdu_013_byte_by_byte_through_the_whole_library() -> None:
    """RFC 7143 11.2: the same for a session with a socket, where each byte is a segment."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        for number in range(10):
            answers: list[bytes] = []
            over = anyio.Event()

            async def read(found: list[bytes] = answers, over: anyio.Event = over) -> None:
                found.append((await session.execute(0, bytes(10), data_in_length=50)).data)
                over.set()

            tasks.start_soon(read)
            command = await peer.expect(ScsiCommand)
            data = bytes((number,)) * 50
            await peer.send(
                peer.nop_in(),
                peer.data_in(command, 0, data[:25]),
                peer.data_in(command, 25, data[25:], data_sn=1),
                peer.response(command, exp_data_sn=2),
                split=1,
            )
            with anyio.fail_after(5):
                await over.wait()
            assert answers == [data]


LUNS: list[tuple[int | bytes, str]] = [
    (0, "0000000000000000"),
    (1, "0001000000000000"),
    (255, "00ff000000000000"),
    (256, "4100000000000000"),
    (16383, "7fff000000000000"),
    (bytes.fromhex("c101000000000000"), "c101000000000000"),
    (bytes.fromhex("0123456789abcdef"), "0123456789abcdef"),
]


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize(("lun", "octets"), LUNS)
async def test_pdu_015_luns_as_sam_writes_them(lun: int | bytes, octets: str) -> None:
    """RFC 7143 11.2.1.7: bytes 8 to 15, and what a target called its own unit is sent as it is."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(session.execute, lun, TEST_UNIT_READY)
        command = await peer.expect(ScsiCommand)
        assert peer.recorder.entries[-1].wire.header[8:16].hex() == octets
        await peer.send(peer.response(command))


@pytest.mark.parametrize("fast", [True, False])
def test_pdu_016_tags_are_unique(fast: bool) -> None:
    """RFC 7143 11.2.1.8: of 500 commands without an answer no two share a tag."""
    script = Script(Settings(queue_depth=1000), window=600).log_in()
    script.machine.fast.enabled = fast
    script.machine.fast.review()
    for number in range(500):
        script.read(0)
        if number % 100 == 0:
            script.manage(TaskManagementFunction.CLEAR_ACA)
    tags = [pdu.initiator_task_tag for pdu in script.take()]
    assert len(tags) == len(set(tags)) == 505
    assert RESERVED not in tags


@pytest.mark.parametrize("fast", [True, False])
def test_pdu_016_a_counter_that_wraps(fast: bool) -> None:
    """RFC 7143 11.2.1.8: the reserved value is left out, and so is what is still in use."""
    script = Script(Settings(queue_depth=1000), window=600).log_in()
    script.machine.fast.enabled = fast
    script.machine.fast.review()
    script.machine.tasks.last_tag = 0xFFFFFFFB
    for _ in range(6):
        script.read(0)
    first = [pdu.initiator_task_tag for pdu in script.take()]
    assert first == [0xFFFFFFFC, 0xFFFFFFFD, 0xFFFFFFFE, 0, 1, 2]
    script.manage(TaskManagementFunction.CLEAR_ACA)
    assert script.one(TaskManagementRequest).initiator_task_tag == 3
    script.machine.tasks.last_tag = 0xFFFFFFFA
    for _ in range(3):
        script.read(0)
    second = [pdu.initiator_task_tag for pdu in script.take()]
    assert second == [0xFFFFFFFB, 4, 5]


def _r2t_of_another_unit(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    return script.r2t(write, 0, 512, lun=LUN_5)


def _r2t_for_a_read(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    return script.r2t(read, 0, 512)


def _text_with_a_scsi_tag(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    return script.text(TextRequest(initiator_task_tag=read.initiator_task_tag), [("X-a", "b")])


def _nop_in_with_a_scsi_tag(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    return script.nop_in(initiator_task_tag=read.initiator_task_tag)


def _management_with_a_scsi_tag(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    return script.managed(TaskManagementRequest(initiator_task_tag=read.initiator_task_tag))


def _data_for_a_write(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    return script.data_in(write, 0, b"x" * 512)


def _good_for_a_text(script: Script, read: ScsiCommand, write: ScsiCommand) -> Any:
    script.ask([("X-a", "1")])
    return script.response(read, initiator_task_tag=script.one(TextRequest).initiator_task_tag)


WRONG: list[tuple[Callable[..., Any], bool]] = [
    (_r2t_of_another_unit, True),
    (_r2t_for_a_read, True),
    (_text_with_a_scsi_tag, True),
    (_nop_in_with_a_scsi_tag, False),
    (_management_with_a_scsi_tag, False),
    (_data_for_a_write, True),
    (_good_for_a_text, False),
]
"""What does not fit its task, and whether it must end the connection."""


@pytest.mark.parametrize(("make", "ends"), WRONG)
def test_pdu_017_what_does_not_fit_its_task(make: Callable[..., Any], ends: bool) -> None:
    """RFC 7143 4.2.5.3, 7.13: no data is sent or stored, and both tasks come to a right end."""
    script = Script(**ASKED).log_in()
    read, write = script.read(512), script.write(b"w" * 512)
    command, other = script.take()
    script.send(make(script, command, other))
    assert script.recorder.sent(DataOut) == []
    assert bytes(read.buffer) == bytes(512)
    assert not read.done
    assert not write.done
    if ends:
        assert isinstance(script.ended().error, ProtocolError)
    if script.lost:
        script.log_in()
        script.machine.resume(script.now)
        command, other = script.take()
    script.send(script.data_in(command, 0, b"r" * 512, final=True, status_present=True))
    script.send(script.response(other))
    assert (read.error, write.error) == (None, None)
    assert bytes(read.buffer) == b"r" * 512


@pytest.mark.parametrize("tag", ["never used", "just finished"])
@pytest.mark.parametrize("fast", [True, False])
def test_pdu_018_a_response_that_nobody_waits_for(tag: str, fast: bool) -> None:
    """RFC 7143 4.2.5.3: it completes no other task, and its StatSN counts."""
    script = Script().log_in()
    script.machine.fast.enabled = fast
    script.machine.fast.review()
    done = script.read(0)
    first = script.one(ScsiCommand)
    script.send(script.response(first))
    assert done.done
    read = script.read(0)
    command = script.one(ScsiCommand)
    stray = 0x12345678 if tag == "never used" else first.initiator_task_tag
    script.send(script.make(ScsiResponse, counts=True, initiator_task_tag=stray))
    assert isinstance(script.events[-1], Warned)
    assert not read.done
    assert done.times == 1
    script.send(script.response(command))
    assert read.done
    assert read.error is None
    script.read(0)
    assert script.one(ScsiCommand).exp_stat_sn == script.stat_sn
