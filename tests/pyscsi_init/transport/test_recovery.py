# SPDX-License-Identifier: Apache-2.0
"""What I/O does while the session is away, by policy, and that the keeper ends with its session."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from dataclasses import replace

import anyio
import pytest
import sniffio
import trio

import pyscsi_init
from pyscsi_init.errors import ConnectionLost, SessionFailed
from pyscsi_init.scsi import test_unit_ready as unit_ready
from pyscsi_init.session import SessionState
from pyscsi_init.testing import TargetServer
from pyscsi_init.transport import Session, open_reactor, open_session, recovery
from pyscsi_init.transport.recovery import Seldom
from tests.support.python_target import (
    INITIATOR,
    IQN,
    PATIENCE,
    WAIT,
    make_target,
    until,
    url_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logins are tried with growing pauses: right for a network, long for a test."""
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.02)


def tasks() -> int:
    """How many tasks the loop has."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def test_for_ever() -> None:
    """recovery_timeout None: I/O waits, however long it takes, and is done then."""
    server = TargetServer([make_target()])
    async with (
        server.running() as portal,
        pyscsi_init.open_lun(
            url_of(portal.address), settings=WAIT, initiator_name=INITIATOR
        ) as lun,
    ):
        server.go_down()
        done: list[bytes] = []

        async def read() -> None:
            done.append(await lun.read(0, 512))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: lun.session.statistics.login_failures > 5)
            assert done == []
            assert lun.session.recovering
            server.come_back()
        assert done == [bytes(512)]
        assert lun.session.statistics.recoveries == 1


async def test_not_at_all() -> None:
    """recovery_timeout 0: I/O fails at once; the session comes back all the same."""
    server = TargetServer([make_target()])
    async with (
        server.running() as portal,
        pyscsi_init.open_lun(
            url_of(portal.address),
            settings=replace(WAIT, recovery_timeout=0),
            initiator_name=INITIATOR,
        ) as lun,
    ):
        held = server.targets[IQN].faults.hold_writes()
        errors: list[Exception] = []

        async def write() -> None:
            try:
                await lun.write(0, bytes(512))
            except SessionFailed as error:
                errors.append(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                await held.wait()
                server.go_down()
        assert "did not come back" in str(errors[0])
        with pytest.raises(SessionFailed):
            await lun.read(0, 512)
        held.release()
        server.come_back()
        await until(lambda: not lun.session.recovering)
        with anyio.fail_after(PATIENCE):
            await lun.read(0, 512)


@pytest.mark.conformance("ERL-017")
async def test_for_a_time() -> None:
    """recovery_timeout N: I/O waits so long, fails then, and works again when the target does."""
    server = TargetServer([make_target()])
    async with (
        server.running() as portal,
        pyscsi_init.open_lun(
            url_of(portal.address),
            settings=replace(WAIT, recovery_timeout=0.3),
            initiator_name=INITIATOR,
        ) as lun,
    ):
        server.go_down()
        began = anyio.current_time()
        with pytest.raises(SessionFailed, match=r"within 0\.3 s"):
            await lun.read(0, 512)
        assert 0.2 < anyio.current_time() - began < 5
        server.come_back()
        await until(lambda: not lun.session.recovering)
        assert await lun.read(0, 512) == bytes(512)
        # The next loss has its own time.
        server.targets[IQN].drop_connections()
        assert await lun.read(0, 512) == bytes(512)


async def test_a_loss_right_after_the_first_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection dies before anybody keeps the session: it is noticed all the same."""
    original = Session.log_in_at
    server = TargetServer([make_target()])
    losses: list[int] = []

    async def log_in_at(self: Session, portal: object, chap: object) -> object:
        outcome = await original(self, portal, chap)  # type: ignore[arg-type]
        if not losses:
            losses.append(1)
            self.drop("in between")
        return outcome

    monkeypatch.setattr(Session, "log_in_at", log_in_at)
    async with server.running() as portal:
        with anyio.fail_after(PATIENCE):
            async with pyscsi_init.open_lun(
                url_of(portal.address), settings=WAIT, initiator_name=INITIATOR
            ) as lun:
                assert await lun.read(0, 512) == bytes(512)
                assert lun.session.statistics.losses == 1


async def test_a_loss_under_the_barrier_begins_it_anew() -> None:
    server = TargetServer([make_target()])
    async with (
        server.running() as portal,
        pyscsi_init.open_lun(
            url_of(portal.address), settings=WAIT, initiator_name=INITIATOR
        ) as lun,
    ):
        calls: list[int] = []

        async def restorer() -> None:
            calls.append(1)
            if len(calls) < 4:
                lun.session.drop("under the barrier")
            if len(calls) == 2:
                raise ConnectionLost("it says so too")

        lun.session.restorers.insert(0, restorer)
        server.targets[IQN].drop_connections()
        with anyio.fail_after(PATIENCE):
            assert await lun.read(0, 512) == bytes(512)
        assert len(calls) == 4
        assert lun.session.statistics.recoveries == 1


def test_a_target_may_come_and_go_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pauses = [recovery.pause_after(brief) for brief in (0, recovery.MAX_BRIEF, 9, 10, 5000, 10**9)]
    assert pauses == [0, 0, 0.5, 1.0, 5.0, 5.0]


async def test_time2wait_is_kept_after_a_loss() -> None:
    """RFC 7143 7.5: DefaultTime2Wait before the next login."""
    server = TargetServer([make_target(default_time2wait=1)])
    async with (
        server.running() as portal,
        open_session([portal], IQN, settings=WAIT, initiator_name=INITIATOR) as session,
    ):
        session.drop("test")
        began = anyio.current_time()
        await until(lambda: session.state is SessionState.Q3_LOGGED_IN)
        assert anyio.current_time() - began >= 0.99


async def test_nothing_of_a_session_stays_in_a_reactor_that_lives_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Volumes share a reactor with what serves them; a closed session must be gone from it."""
    # A record holds the error that it tells of, and that holds the frames that it came through.
    caplog.set_level(logging.WARNING, logger="pyscsi_init")
    caplog.set_level(logging.WARNING, logger="pyscsi_init.session")
    server = TargetServer([make_target()])
    async with server.running() as portal, open_reactor() as reactor:

        async def once(*, lost: bool) -> weakref.ref[Session]:
            async with open_session(
                [portal],
                IQN,
                settings=replace(WAIT, recovery_timeout=3600.0),
                initiator_name=INITIATOR,
                reactor=reactor,
            ) as session:
                await session.execute(0, unit_ready())
                if lost:
                    server.stop_listening()
                    session.drop("test")
                    await until(lambda: session.statistics.login_failures > 1)
                return weakref.ref(session)

        before = tasks()
        for lost in (False, True):
            gone = await once(lost=lost)
            server.come_back()
            await until(lambda: not server.connections)
            await until(lambda: tasks() == before)
            gc.collect()
            assert gone() is None


async def test_closing_while_it_is_away_is_immediate() -> None:
    server = TargetServer([make_target()])
    async with server.running() as portal:
        with anyio.fail_after(2):
            async with pyscsi_init.open_lun(
                url_of(portal.address), settings=WAIT, initiator_name=INITIATOR
            ) as lun:
                server.go_down()
                await until(lambda: lun.session.recovering)


async def test_closing_while_the_target_is_silent_is_bounded() -> None:
    server = TargetServer([make_target()])
    async with server.running() as portal:
        began = anyio.current_time()
        async with pyscsi_init.open_lun(
            url_of(portal.address),
            settings=replace(WAIT, logout_timeout=0.1, task_management_timeout=0.1),
            initiator_name=INITIATOR,
        ):
            server.targets[IQN].faults.silent = True
        assert anyio.current_time() - began < 3


def test_a_long_outage_makes_few_lines() -> None:
    told = Seldom()
    assert [n for n in range(1, 70) if told.is_worth("away")] == [1, 2, 4, 8, 16, 32, 64]
    assert told.is_worth("refused")
    assert told.is_worth("away")
