# SPDX-License-Identifier: Apache-2.0
"""Commands that transfer both ways, and long CDBs, through the public interface (RFC 7143 11.2.2,
11.3.4, 11.4.5, 11.7.5)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from pyscsi_init.errors import (
    IscsiError,
    LocalProtocolError,
    ProtocolError,
    ScsiError,
    TaskRejected,
)
from pyscsi_init.pdu import DataOut, ScsiCommand, TaskManagementRequest
from pyscsi_init.session import BidirectionalTask, Replay
from pyscsi_init.session.bidirectional import submit_bidirectional
from pyscsi_init.settings import Settings
from pyscsi_init.transport.execute import ScsiResult
from tests.pyscsi_init.session.scripted import LUN, Issued, Script
from tests.support.scripted_session import logged_in

XDWRITEREAD_10 = bytes.fromhex("53000000000000000100")
XDWRITEREAD_32 = bytes.fromhex("7f000000000000180007") + bytes(21) + b"\x01"
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}
PATTERN = bytes(range(256)) * 4


class Both(Issued):
    """A command both ways on a session machine."""

    def __init__(self, script: Script, written: bytes, read: int, **options: Any) -> None:
        super().__init__(bytearray(read))
        self.both = BidirectionalTask(
            LUN,
            XDWRITEREAD_10,
            self.completed,
            data_in=memoryview(self.buffer),
            data_out=memoryview(written),
            **options,
        )
        self.task = self.both
        submit_bidirectional(script.machine, self.both, script.now)


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("cdb", [XDWRITEREAD_10, XDWRITEREAD_32], ids=len)
@pytest.mark.parametrize("keys", [{}, ASKED], ids=["unasked", "asked"])
async def test_pdu_009_both_ways(cdb: bytes, keys: dict[str, str]) -> None:
    """RFC 7143 11.2.2.4, 11.3.4: R and W, the written length in the BHS, the read length in an AHS;
    behind the Extended CDB, where there is one. R2T and Data-In share one numbering (11.7.5)."""
    results: list[ScsiResult] = []
    async with logged_in(virtual=True, **keys) as (session, peer):

        async def run() -> None:
            results.append(await session.execute(0, cdb, data_out=PATTERN, data_in_length=1536))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            command = await peer.expect(ScsiCommand)
            wire = peer.recorder.entries[-1].wire
            assert (command.read, command.write) == (True, True)
            assert command.expected_data_transfer_length == 1024
            assert wire.ahs[-8:].hex() == "0005020000000600"
            assert (len(wire.ahs), wire.header[4]) == ((8, 2) if len(cdb) == 10 else (28, 7))
            assert command.cdb.rstrip(b"\0") == cdb.rstrip(b"\0")
            if keys:
                assert len(command.data) == 0
                await peer.send(
                    peer.r2t(command, 0, 512, r2t_sn=0),
                    peer.data_in(command, 0, b"r" * 512, data_sn=1),
                    peer.r2t(command, 512, 512, r2t_sn=2),
                    peer.data_in(command, 512, b"s" * 1024, data_sn=3, final=True),
                )
                written = b"".join([bytes((await peer.expect(DataOut)).data) for _ in range(2)])
            else:
                await peer.send(peer.data_in(command, 0, b"r" * 512))
                await peer.send(peer.data_in(command, 512, b"s" * 1024, data_sn=1, final=True))
                written = bytes(command.data)
            assert written == PATTERN
            await peer.send(peer.response(command, exp_data_sn=4 if keys else 2))
    (result,) = results
    assert result.data == b"r" * 512 + b"s" * 1024
    assert (result.residual_count, result.bidi_residual_count) == (0, 0)


RESIDUALS: list[tuple[dict[str, Any], int, tuple[Any, ...]]] = [
    ({"bidi_residual_underflow": True, "bidi_residual_count": 112}, 400, (0, False, 112, True)),
    ({"residual_underflow": True, "residual_count": 24}, 512, (24, True, 0, False)),
    (
        {
            "residual_underflow": True,
            "residual_count": 1,
            "bidi_residual_underflow": True,
            "bidi_residual_count": 512,
        },
        0,
        (1, True, 512, True),
    ),
    ({"bidi_residual_count": 7, "residual_count": 8}, 512, (0, False, 0, False)),
]


@pytest.mark.parametrize(("fields", "came", "told"), RESIDUALS)
def test_pdu_009_two_residuals(fields: dict[str, Any], came: int, told: tuple[Any, ...]) -> None:
    """RFC 7143 11.4.5: that of what was written and that of what was read, each with its bits; a
    count without its bit means nothing."""
    script = Script().log_in()
    both = Both(script, b"w" * 512, 512)
    command = script.one(ScsiCommand)
    if came:
        script.send(script.data_in(command, 0, b"r" * came, final=True))
    script.send(script.response(command, exp_data_sn=1 if came else 0, **fields))
    assert (both.done, both.error) == (True, None)
    task = both.both
    assert told == (
        task.residual_count,
        task.residual_underflow,
        task.bidi_residual_count,
        task.bidi_residual_underflow,
    )
    assert task.received == came


def test_pdu_009_more_than_was_asked_for() -> None:
    script = Script().log_in()
    both = Both(script, b"w" * 512, 512)
    command = script.one(ScsiCommand)
    script.send(script.data_in(command, 0, b"r" * 512, final=True))
    overflow = {"bidi_residual_overflow": True, "bidi_residual_count": 9}
    script.send(script.response(command, exp_data_sn=1, **overflow))
    assert (both.both.bidi_residual_overflow, both.both.bidi_residual_count) == (True, 9)
    assert both.error is None


WRONG: list[dict[str, Any]] = [
    {},
    {"bidi_residual_underflow": True, "bidi_residual_count": 111},
    {"bidi_residual_underflow": True, "bidi_residual_count": 513},
    {"residual_underflow": True, "residual_count": 112},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_pdu_009_a_hole_is_never_good(fields: dict[str, Any]) -> None:
    """RFC 7143 7.1.4.4: 112 bytes are missing, and the residual does not say so."""
    script = Script().log_in()
    both = Both(script, b"w" * 512, 512)
    command = script.one(ScsiCommand)
    script.send(script.data_in(command, 0, b"r" * 400, final=True))
    script.send(script.response(command, exp_data_sn=1, **fields))
    assert isinstance(script.ended().error, ProtocolError)
    assert both.error is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"bidi_residual_underflow": True, "bidi_residual_count": 513},
        {"residual_underflow": True, "residual_count": 513},
    ],
)
def test_pdu_009_a_residual_that_cannot_be(fields: dict[str, Any]) -> None:
    """RFC 7143 11.4.5: more than was asked for can not be missing, whatever the status is."""
    script = Script().log_in()
    Both(script, b"w" * 512, 512)
    sense = b"\0\x12" + bytes.fromhex("700005000000000a00000000240000000000")
    script.send(script.response(script.one(ScsiCommand), status=2, data=sense, **fields))
    assert isinstance(script.ended().error, ProtocolError)


def test_pdu_009_a_number_of_the_shared_sequence_is_missing() -> None:
    """RFC 7143 11.7.5, 7.9: after R2TSN 0 comes DataSN 1."""
    script = Script(**ASKED).log_in()
    Both(script, b"w" * 512, 512)
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 512))
    script.one(DataOut)
    script.send(script.data_in(command, 0, b"r" * 512, final=True))
    assert isinstance(script.ended().error, ProtocolError)


def test_pdu_009_common_commands_beside_it() -> None:
    """They are what they are, before, while and after; and the short cut is taken again."""
    script = Script().log_in()
    assert script.machine.fast.connection is not None
    both = Both(script, b"w" * 512, 512)
    read, write = script.read(512), script.write(b"x" * 512)
    assert script.machine.fast.connection is None
    command, *others = script.take()
    assert [(pdu.read, pdu.write) for pdu in others] == [(True, False), (False, True)]
    assert [pdu.bidirectional_read_expected_data_transfer_length for pdu in others] == [None] * 2
    last = {"final": True, "status_present": True}
    script.send(script.data_in(others[0], 0, b"1" * 512, **last), script.response(others[1]))
    script.send(script.data_in(command, 0, b"2" * 512, final=True))
    script.send(script.response(command, exp_data_sn=1))
    assert [each.error for each in (both, read, write)] == [None] * 3
    assert (bytes(both.buffer), bytes(read.buffer)) == (b"2" * 512, b"1" * 512)
    assert script.machine.fast.connection is not None


def test_pdu_009_sent_anew_after_a_loss() -> None:
    """Where its owner says that it may be done twice: from the start, with all its numbers."""
    script = Script(**ASKED).log_in()
    both = Both(script, b"w" * 512, 512, replay=Replay.SAFE)
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 512), script.data_in(command, 0, b"r" * 256, data_sn=1))
    script.take()
    script.machine.receive_eof(script.now)
    script.log_in()
    script.machine.resume(script.now)
    command = script.one(ScsiCommand)
    assert command.bidirectional_read_expected_data_transfer_length == 512
    script.send(script.r2t(command, 0, 512))
    assert bytes(script.one(DataOut).data) == b"w" * 512
    script.send(script.data_in(command, 0, b"s" * 512, data_sn=1, final=True))
    script.send(script.response(command, exp_data_sn=2))
    assert (both.error, bytes(both.buffer)) == (None, b"s" * 512)
    assert script.machine.tasks.bidirectional == 0


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.quirk("Q-02")
@pytest.mark.parametrize("how", ["reject", "check condition"])
async def test_pdu_009_a_target_that_has_no_such_commands(how: str) -> None:
    """LIO rejects what transfers both ways (Invalid PDU Field): the caller is told, and the session
    goes on."""
    async with logged_in(virtual=True) as (session, peer):
        caught: list[IscsiError] = []

        async def run() -> None:
            try:
                await session.execute(0, XDWRITEREAD_10, data_out=b"w" * 512, data_in_length=512)
            except IscsiError as error:
                caught.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            command = await peer.expect(ScsiCommand)
            if how == "reject":
                await peer.send(peer.reject(command, 9))
            else:
                sense = bytes.fromhex("700005000000000a000000002000000000 00".replace(" ", ""))
                fields = {"status": 2, "data": len(sense).to_bytes(2, "big") + sense}
                await peer.send(peer.response(command, **fields))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.execute, 0, bytes(6))
            await peer.send(peer.response(await peer.expect(ScsiCommand)))
        assert [type(each) for each in caught] == [TaskRejected] or isinstance(caught[0], ScsiError)
        assert (len(caught), session.statistics.recoveries) == (1, 0)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_pdu_009_at_level_0_only() -> None:
    """What is missing of two directions with one numbering cannot be asked for again: the caller is
    told so, and nothing is sent."""
    settings = Settings(noop_interval=0, error_recovery_level=1)
    keys = {"ErrorRecoveryLevel": "1"}
    async with logged_in(virtual=True, settings=settings, **keys) as (session, peer):
        with pytest.raises(LocalProtocolError, match="level 0"):
            await session.execute(0, XDWRITEREAD_10, data_out=b"w" * 512, data_in_length=512)
        peer.recorder.assert_none(ScsiCommand)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_pdu_009_cancelled() -> None:
    """It is aborted like any other."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await session.execute(0, XDWRITEREAD_10, data_out=b"w" * 512, data_in_length=512)

        tasks.start_soon(run)
        command = await peer.expect(ScsiCommand)
        scope.cancel()
        abort = await peer.expect(TaskManagementRequest)
        assert abort.referenced_task_tag == command.initiator_task_tag
        await peer.send(peer.managed(abort))
