# SPDX-License-Identifier: Apache-2.0
"""Time limits of a whole session, on the virtual clock: a target that falls silent at each step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Session, Settings
from pyscsi_init.discovery.send_targets import send_targets
from pyscsi_init.errors import ConnectError, ConnectionLost, LoginTimeout, OutcomeUnknown
from pyscsi_init.pdu import NopOut, ScsiCommand, TaskManagementRequest
from pyscsi_init.testing import LogicalUnit, RamDisk
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.pyscsi_init.session.scripted import READ_CDB
from tests.support.scripted_session import INITIATOR, logged_in, session_with

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

# Each limit is another one, so that one cannot stand in for another.
LIMITS = Settings(
    connect_timeout=3,
    login_timeout=11,
    command_timeout=31,
    task_management_timeout=17,
    logout_timeout=7,
    noop_interval=0,
    flush_timeout=170,
)
SLACK = 2.5
"""Seconds by which a limit may be late: all that is outstanding is looked at once a second."""
SYNCHRONIZE_CACHE = (0x35, 0x91)


def opened(target: ScriptedTarget, settings: Settings, **kw: Any) -> Any:
    return pyscsi_init.open_session(
        [target.portal],
        target.name,
        connector=target.connect,
        settings=settings,
        initiator_name=INITIATOR,
        **kw,
    )


def took(begin: float, seconds: float) -> bool:
    """It is that time now, and not before."""
    return seconds <= anyio.current_time() - begin <= seconds + SLACK


@pytest.mark.parametrize(
    ("step", "seconds", "kind"),
    [("connect", 3, ConnectError), ("login", 11, LoginTimeout)],
)
async def test_tmo_001_until_there_is_a_session(
    step: str, seconds: float, kind: type[Exception]
) -> None:
    """RFC 7143 10.3: a portal that does not answer, and a target that says nothing."""
    async with ScriptedTarget().running() as target:
        target.unreachable = step == "connect"
        begin = anyio.current_time()
        with pytest.raises(kind):
            async with opened(target, LIMITS):
                pass
        assert took(begin, seconds)


async def command(session: Session) -> None:
    await session.execute(0, READ_CDB, data_in_length=512)


async def reset(session: Session) -> None:
    await session.logical_unit_reset(0)


async def reset_with_its_own_time(session: Session) -> None:
    await session.logical_unit_reset(0, seconds=5)


async def text(session: Session) -> None:
    await send_targets(session)


STEPS: list[tuple[Callable[[Session], Awaitable[None]], float, type[Exception]]] = [
    (command, 31 + 17, OutcomeUnknown),
    (reset, 17, ConnectionLost),
    (reset_with_its_own_time, 5, ConnectionLost),
    (text, 11, ConnectionLost),
]


@pytest.mark.parametrize(("step", "seconds", "kind"), STEPS)
async def test_tmo_001_in_full_feature_phase(
    step: Callable[[Session], Awaitable[None]], seconds: float, kind: type[Exception]
) -> None:
    """RFC 7143 10.3: a command and the abort after it, a task management function, a text: who
    waits is told at the second that was agreed, and the connection is given up."""
    async with logged_in(virtual=True, settings=LIMITS, log_out=False) as (session, peer):
        begin = anyio.current_time()
        with pytest.raises(kind):
            await step(session)
        assert took(begin, seconds)
        peer.inbox.clear()
        await peer.expect_end()


async def test_tmo_001_the_logout() -> None:
    """RFC 7143 10.3: the end of a session is bounded as well, with a command still under way: half
    of it waits for the command, half for the answer."""
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        peers: list[ScriptedConnection] = []

        async def script() -> None:
            peers.append(await target.log_in())

        tasks.start_soon(script)
        errors: list[Exception] = []

        async def read(session: Session) -> None:
            try:
                await command(session)
            except (ConnectionLost, OutcomeUnknown) as error:
                errors.append(error)

        async with opened(target, LIMITS) as session:
            tasks.start_soon(read, session)
            await peers[0].expect(ScsiCommand)
            begin = anyio.current_time()
        assert took(begin, 7 + 7)
        assert session.tasks() == []
        await anyio.wait_all_tasks_blocked()
        assert len(errors) == 1


@pytest.mark.parametrize("interval", [4, 9])
async def test_tmo_001_a_ping(interval: float) -> None:
    """RFC 7143 11.18: asked after so much silence, and given up after so much more; a command that
    waits is not told that it failed, but sent again."""
    settings = Settings(noop_interval=interval, noop_timeout=6, recovery_timeout=60)
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        disk = RamDisk(1 << 20)
        times: list[float] = []

        async def script() -> None:
            peer = await target.log_in()
            await peer.serve(LogicalUnit(disk), until=wanted)
            begin = anyio.current_time()
            await peer.expect(NopOut)
            times.append(anyio.current_time() - begin)
            await peer.expect_end(within=30)
            times.append(anyio.current_time() - begin)
            peer = await target.log_in()
            await peer.serve(LogicalUnit(disk))

        def wanted(pdu: Any) -> bool:
            return isinstance(pdu, ScsiCommand) and pdu.cdb[0] == 0x28 and pdu.cdb[5] == 64

        tasks.start_soon(script)
        async with pyscsi_init.open_lun(
            target.url(), connector=target.connect, settings=settings, initiator_name=INITIATOR
        ) as lun:
            assert await lun.read(32768, 512) == bytes(512)
        assert times == [
            pytest.approx(interval, abs=0.1),
            pytest.approx(interval + 6, abs=0.1),
        ]


@pytest.mark.parametrize("what", ["flush", "read"])
async def test_tmo_002_a_flush_may_take_what_a_read_may_not(what: str) -> None:
    """RFC 7143 10.3: SYNCHRONIZE CACHE answered after 50 s is a success and nothing else happens; a
    READ is aborted after its 31 s."""
    disk = RamDisk(1 << 20, write_cache=True)
    opcodes = SYNCHRONIZE_CACHE if what == "flush" else (0x28, 0x88)
    marks: list[int] = []
    begin = 0.0

    def wanted(pdu: Any) -> bool:
        return isinstance(pdu, ScsiCommand) and pdu.cdb[0] in opcodes and bool(marks)

    async def script() -> None:
        peer = await target.log_in()
        unit = LogicalUnit(disk)
        slow = await peer.serve(unit, until=wanted)
        assert isinstance(slow, ScsiCommand)
        if what == "flush":
            await anyio.sleep(50)
            await peer.send(peer.response(slow))
            await peer.serve(unit)
            return
        abort = await peer.expect(TaskManagementRequest, within=60)
        assert took(begin, 31)
        assert abort.referenced_task_tag == slow.initiator_task_tag
        peer.fin()
        peer = await target.log_in()
        await peer.serve(LogicalUnit(disk))

    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        tasks.start_soon(script)
        async with pyscsi_init.open_lun(
            target.url(), connector=target.connect, settings=LIMITS, initiator_name=INITIATOR
        ) as lun:
            await lun.write(0, bytes(512))
            marks.append(target.recorder.mark())
            begin = anyio.current_time()
            if what == "flush":
                await lun.flush()
                assert took(begin, 50)
                target.recorder.assert_none(TaskManagementRequest, since=marks[0])
                assert lun.session.statistics.losses == 0
            else:
                assert await lun.read(32768, 512) == bytes(512)
                assert lun.session.statistics.losses == 1


async def test_tmo_003_closing_over_a_peer_that_is_gone() -> None:
    """RFC 7143 7.14: nobody reads and no end comes; megabytes are queued, and closing takes its
    time limit and leaves nothing behind."""
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        ends: list[Exception] = []

        async def write(session: Session) -> None:
            try:
                await session.execute(0, bytes((0x2A, *bytes(15))), data_out=bytes(1 << 20))
            except (ConnectionLost, OutcomeUnknown) as error:
                ends.append(error)

        async with session_with(target, virtual=True, settings=LIMITS, log_out=False) as (
            session,
            peer,
        ):
            peer.stop_reading()
            for _ in range(20):
                tasks.start_soon(write, session)
            await anyio.wait_all_tasks_blocked()
            begin = anyio.current_time()
        assert anyio.current_time() - begin <= 2 * LIMITS.logout_timeout + SLACK
        await anyio.wait_all_tasks_blocked()
        assert len(ends) == 20
        assert (session.tasks(), session.connected) == ([], False)
        tasks.cancel_scope.cancel()


async def test_tmo_003_a_peer_that_is_gone_under_io() -> None:
    """The same is noticed by the ping while the session is in use, also where the ping itself
    cannot leave, because nobody reads."""
    settings = Settings(noop_interval=5, noop_timeout=6)
    async with (
        ScriptedTarget().running() as target,
        anyio.create_task_group() as tasks,
        session_with(target, virtual=True, settings=settings, log_out=False) as (session, peer),
    ):
        peer.stop_reading()

        async def write() -> None:
            with pytest.raises(OutcomeUnknown):
                await session.execute(0, bytes((0x2A, *bytes(15))), data_out=bytes(1 << 23))

        tasks.start_soon(write)
        begin = anyio.current_time()
        await target.accept(within=20)
        # the silence, the answer that does not come, and DefaultTime2Wait
        assert took(begin, 5 + 6 + 2)
        tasks.cancel_scope.cancel()
