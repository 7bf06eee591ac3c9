# SPDX-License-Identifier: Apache-2.0
"""Commands that transfer both ways (RFC 7143 4.2.2.4, 11.2.2.4, 11.4.6, 11.7.3, A.3.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from pyscsi_init import ScsiResult, Session, Settings
from pyscsi_init.errors import (
    CheckCondition,
    ConnectionLost,
    OutcomeUnknown,
    ProtocolError,
    TaskRejected,
)
from pyscsi_init.pdu import DataOut, ScsiCommand, TaskManagementRequest
from pyscsi_init.testing.scripted import ScriptedConnection
from tests.pyscsi_init.session.scripted import data_of
from tests.support.scripted_session import logged_in

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

XDWRITEREAD = bytes.fromhex("53000000000000000200") + bytes(6)
LONG = bytes((0x7F, 0, 0, 0, 0, 0, 0, 24, 0, 7)) + bytes(22)
PAYLOAD = bytes(range(256)) * 16
SENSE = bytes.fromhex("0012 70000b000000000a000000004705000000000000".replace(" ", ""))
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No", "MaxRecvDataSegmentLength": "1024"}
DIGESTS = [("None", "None"), ("CRC32C", "CRC32C")]


class Both:
    """A bidirectional command, and how it ended."""

    def __init__(self, session: Session, read: int = 2048, cdb: bytes = XDWRITEREAD) -> None:
        self.session, self.read, self.cdb = session, read, cdb
        self.result: ScsiResult | None = None
        self.error: Exception | None = None

    async def run(self) -> None:
        try:
            self.result = await self.session.execute(
                5, self.cdb, data_out=PAYLOAD, data_in_length=self.read
            )
        except (CheckCondition, ConnectionLost, OutcomeUnknown, TaskRejected) as error:
            self.error = error


@asynccontextmanager
async def started(
    digests: tuple[str, str] = ("None", "None"),
    *,
    ends: bool = False,
    read: int = 2048,
    **keys: str,
) -> AsyncIterator[tuple[Session, ScriptedConnection, Both, ScsiCommand]]:
    """A session in which other commands went before, and one that goes both ways."""
    header, data = digests
    settings = Settings(noop_interval=0, header_digest=(header,), data_digest=(data,))
    keys = {"HeaderDigest": header, "DataDigest": data, **ASKED, **keys}
    async with (
        logged_in(virtual=True, settings=settings, log_out=not ends, **keys) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):  # so that the short cuts are on
            tasks.start_soon(session.execute, 0, bytes(6))
            await peer.send(peer.response(await peer.expect(ScsiCommand)))
        both = Both(session, read)
        tasks.start_soon(both.run)
        command = await peer.expect(ScsiCommand)
        yield session, peer, both, command
        if ends:
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("digests", DIGESTS, ids=str)
async def test_ffp_023_the_example_of_the_standard(digests: tuple[str, str]) -> None:
    """RFC 7143 A.3.3: R2Ts and Data-In PDUs in one numbering, in any mixture; the status in a SCSI
    Response; and everything else goes on beside it."""
    async with started(digests) as (session, peer, both, command):
        assert (command.read, command.write, command.final) == (True, True, True)
        assert command.expected_data_transfer_length == 4096
        assert command.bidirectional_read_expected_data_transfer_length == 2048
        wire = peer.recorder.entries[-1].wire
        assert wire.ahs.hex() == "0005020000000800"
        await peer.send(
            peer.r2t(command, 0, 2048, r2t_sn=0, target_transfer_tag=1),
            peer.data_in(command, 0, b"a" * 1024, data_sn=1),
        )
        first = [await peer.expect(DataOut) for _ in range(2)]
        await peer.send(
            peer.data_in(command, 1024, b"b" * 512, data_sn=2),
            peer.r2t(command, 2048, 2048, r2t_sn=3, target_transfer_tag=2),
            peer.data_in(command, 1536, b"c" * 512, data_sn=4, final=True),
        )
        second = [await peer.expect(DataOut) for _ in range(2)]
        assert data_of([*first, *second]) == PAYLOAD
        assert [pdu.data_sn for pdu in (*first, *second)] == [0, 1, 0, 1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.execute, 0, bytes(6))
            await peer.send(peer.response(await peer.expect(ScsiCommand)))
        assert both.result is None
        await peer.send(peer.response(command, exp_data_sn=5))
        await peer.expect_nothing(1)
        assert both.result is not None
        assert both.result.data == b"a" * 1024 + b"b" * 512 + b"c" * 512
        assert (both.result.residual_count, both.result.bidi_residual_count) == (0, 0)


@pytest.mark.parametrize("cdb", [XDWRITEREAD, LONG], ids=["10", "32"])
async def test_ffp_023_unsolicited_data_and_long_cdbs(cdb: bytes) -> None:
    """RFC 7143 11.2.2: immediate and unsolicited data as of a write; two segments in the AHS where
    the CDB is long as well."""
    keys = {"FirstBurstLength": "2048", "MaxRecvDataSegmentLength": "1024"}
    async with logged_in(virtual=True, **keys) as (session, peer), anyio.create_task_group() as tg:
        both = Both(session, 512, cdb)
        tg.start_soon(both.run)
        command = await peer.expect(ScsiCommand)
        assert command.cdb == cdb
        assert command.bidirectional_read_expected_data_transfer_length == 512
        assert (command.read, command.write, command.final) == (True, True, False)
        data = await peer.expect(DataOut)
        assert bytes(command.data) + bytes(data.data) == PAYLOAD[:2048]
        await peer.send(peer.r2t(command, 2048, 2048))
        rest = [await peer.expect(DataOut) for _ in range(2)]
        assert data_of(rest) == PAYLOAD[2048:]
        await peer.send(
            peer.data_in(command, 0, bytes(512), data_sn=1, final=True),
            peer.response(command, exp_data_sn=2),
        )
        await peer.expect_nothing(1)
        assert both.result is not None
        assert both.result.data == bytes(512)


RESIDUALS: list[tuple[dict[str, Any], int, tuple[int, bool, bool, int, bool, bool]]] = [
    (
        {"bidi_residual_underflow": True, "bidi_residual_count": 1024},
        1024,
        (0, False, False, 1024, False, True),
    ),
    (
        {"bidi_residual_overflow": True, "bidi_residual_count": 7},
        2048,
        (0, False, False, 7, True, False),
    ),
    (
        {"residual_underflow": True, "residual_count": 96},
        2048,
        (96, False, True, 0, False, False),
    ),
    (
        {
            "residual_overflow": True,
            "residual_count": 5,
            "bidi_residual_underflow": True,
            "bidi_residual_count": 2048,
        },
        0,
        (5, True, False, 2048, False, True),
    ),
    ({"residual_count": 77, "bidi_residual_count": 88}, 2048, (0, False, False, 0, False, False)),
]


@pytest.mark.parametrize(("fields", "sent", "told"), RESIDUALS)
async def test_ffp_023_residuals_of_both_halves(
    fields: dict[str, Any], sent: int, told: tuple[Any, ...]
) -> None:
    """RFC 7143 11.4.5, 11.4.6: O, U and Residual Count for what was written, o, u and Bidirectional
    Read Residual Count for what was read; a count without its bits means nothing."""
    async with started() as (_, peer, both, command):
        if sent:
            await peer.send(peer.data_in(command, 0, bytes(sent), final=True))
        await peer.send(peer.response(command, exp_data_sn=int(bool(sent)), **fields))
        await peer.expect_nothing(1)
        result = both.result
        assert result is not None
        assert len(result.data) == sent
        assert told == (
            result.residual_count,
            result.residual_overflow,
            result.residual_underflow,
            result.bidi_residual_count,
            result.bidi_residual_overflow,
            result.bidi_residual_underflow,
        )


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"bidi_residual_overflow": True, "bidi_residual_underflow": True}, 2048),
    ({"residual_overflow": True, "residual_underflow": True}, 2048),
    ({"bidi_residual_underflow": True, "bidi_residual_count": 2049, "status": 8}, 0),
    ({"residual_underflow": True, "residual_count": 4097}, 2048),
    ({}, 0),
    ({"status": 8, "exp_data_sn": 2}, 2048),
]


@pytest.mark.parametrize(("fields", "sent"), WRONG, ids=str)
async def test_ffp_023_impossible_ends(fields: dict[str, Any], sent: int) -> None:
    """RFC 7143 11.4.1, 11.4.6: o with u, O with U, more missing than was asked for, and GOOD with a
    hole in what was read: the command did not end well."""
    async with started(ends=True) as (session, peer, both, command):
        if sent:
            await peer.send(peer.data_in(command, 0, bytes(sent)))
        await peer.send(peer.response(command, **{"exp_data_sn": int(bool(sent)), **fields}))
        await peer.expect_end()
        assert isinstance(session.last_error, ProtocolError)
        assert isinstance(both.error, OutcomeUnknown)


@pytest.mark.parametrize("digests", DIGESTS, ids=str)
async def test_ffp_015_023_no_status_in_data(digests: tuple[str, str]) -> None:
    """RFC 7143 11.7.3: the status of a bidirectional command comes in a SCSI Response only."""
    async with started(digests, ends=True, read=4096) as (session, peer, both, command):
        last = {"final": True, "status_present": True}
        await peer.send(peer.data_in(command, 0, bytes(4096), **last))
        await peer.expect_end()
        assert isinstance(session.last_error, ProtocolError)
        assert isinstance(both.error, OutcomeUnknown)


@pytest.mark.parametrize("what", ["R2T", "Data-In"])
async def test_ffp_023_two_numberings_are_a_hole(what: str) -> None:
    """RFC 7143 4.2.2.4: a number that is used twice is one that the other lacks."""
    async with started(ends=True) as (session, peer, _, command):
        if what == "R2T":
            await peer.send(
                peer.data_in(command, 0, bytes(512)), peer.r2t(command, 0, 1024, r2t_sn=0)
            )
        else:
            await peer.send(peer.r2t(command, 0, 1024))
            await peer.expect(DataOut)
            await peer.send(peer.data_in(command, 0, bytes(512)))
        await peer.expect_end()
        assert isinstance(session.last_error, ProtocolError)


async def test_ffp_023_sense_and_what_came() -> None:
    """RFC 7143 11.4.6: CHECK CONDITION with both residuals ends it as it ends any command."""
    async with started() as (_, peer, both, command):
        fields = {"residual_underflow": True, "residual_count": 4096}
        bidi = {"bidi_residual_underflow": True, "bidi_residual_count": 2048}
        await peer.send(peer.response(command, status=2, data=SENSE, **fields, **bidi))
        await peer.expect_nothing(1)
        assert isinstance(both.error, CheckCondition)
        assert both.error.asc == 0x47


async def test_ffp_023_a_target_that_rejects_it() -> None:
    """RFC 7143 7.3, 11.17.1: LIO does so; the caller is told why, and the session works on."""
    async with started() as (session, peer, both, command):
        await peer.send(peer.reject(command, 5))
        await peer.expect_nothing(1)
        assert isinstance(both.error, TaskRejected)
        assert both.error.reason == 5
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.execute, 0, bytes(6))
            await peer.send(peer.response(await peer.expect(ScsiCommand)))


async def test_ffp_023_one_that_waits_for_the_window() -> None:
    """RFC 7143 4.2.2.1: what waits leaves in its order and as what it is."""
    async with logged_in(virtual=True, **ASKED) as (session, peer), anyio.create_task_group() as tg:
        tg.start_soon(session.execute, 0, bytes(6))
        first = await peer.expect(ScsiCommand)
        peer.set_window(1)
        await peer.send(peer.response(first))
        for _ in range(63):
            tg.start_soon(session.execute, 0, bytes(6))
        fill = [await peer.expect(ScsiCommand) for _ in range(63)]
        both = Both(session)
        tg.start_soon(both.run)
        await peer.expect_nothing(1)
        tg.start_soon(session.execute, 0, bytes(6))
        await peer.expect_nothing(1)
        peer.set_window(64)
        await peer.send(*(peer.response(pdu) for pdu in fill))
        command, after = await peer.expect(ScsiCommand), await peer.expect(ScsiCommand)
        assert (command.read, command.write, after.read) == (True, True, False)
        await peer.send(
            peer.response(after),
            peer.data_in(command, 0, bytes(2048)),
            peer.response(command, exp_data_sn=1),
        )
        await peer.expect_nothing(1)
        assert both.result is not None


async def test_ffp_023_cancelled() -> None:
    """RFC 7143 11.5: ABORT TASK, after which the short cuts are on again and the late data of the
    command goes nowhere."""
    async with logged_in(virtual=True, **ASKED) as (session, peer), anyio.create_task_group() as tg:
        scope = anyio.CancelScope()
        both = Both(session)

        async def given_up() -> None:
            with scope:
                await both.run()

        tg.start_soon(given_up)
        command = await peer.expect(ScsiCommand)
        scope.cancel()
        abort = await peer.expect(TaskManagementRequest)
        await peer.send(peer.r2t(command, 0, 1024))
        await peer.expect(DataOut)
        await peer.send(
            peer.managed(abort),
            peer.data_in(command, 0, bytes(2048), data_sn=1),
            peer.r2t(command, 1024, 1024, r2t_sn=2),
        )
        await peer.expect_nothing(1)
        assert session.tasks() == []
        assert session._machine.fast.connection is not None
