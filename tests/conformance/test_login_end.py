# SPDX-License-Identifier: Apache-2.0
"""How a login ends: refusals, redirections, time-outs, losses, and the login after them (RFC 7143
6.3.1, 6.3.5, 8.1.2, 11.13.5)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, Portal, Secret, Settings
from pyscsi_init.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ConnectError,
    LoginError,
    LoginRejected,
    LoginTimeout,
    ProtocolError,
    TargetNotFound,
    TargetRemoved,
    TargetUnavailable,
    TaskError,
)
from pyscsi_init.login import LoginMachine
from pyscsi_init.pdu import LoginRequest, LoginResponse, Stage
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.logging_in import (
    INITIATOR,
    QUIET,
    READ,
    answer,
    back,
    operational,
    outcome_of,
    rounds,
    said,
    session_of,
)
from tests.support.logs import ExpectLogs

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


def refused(status_class: int, detail: int) -> Any:
    """The first answer is this status."""
    return rounds(("", {"status_class": status_class, "status_detail": detail}), honest=False)


# -- the portal group ---------------------------------------------------------------------------


@pytest.mark.conformance("LOGIN-020")
@pytest.mark.parametrize(
    ("text", "tag"), [("0", 0), ("1", 1), ("65535", 65535), ("0x0001", 1), (None, None)]
)
async def test_portal_group_tags(text: str | None, tag: int | None) -> None:
    said_too = "" if text is None else f" TargetPortalGroupTag={text}"
    portals = [Portal("10.0.0.1")]
    outcome = await outcome_of(rounds("AuthMethod=None" + said_too), portals=portals)
    assert outcome.in_force.target_portal_group_tag == tag


@pytest.mark.conformance("LOGIN-020")
async def test_another_group_than_discovery_said(expect_logs: ExpectLogs) -> None:
    """It is told once, and the tag that the target itself gives is taken over."""
    expect_logs("portal group 7", logger="pyscsi_init.session")
    seen: list[Portal | None] = []

    async def play(target: ScriptedTarget) -> None:
        for _ in range(2):
            peer = await target.accept()
            await answer(peer, "TargetPortalGroupTag=7 AuthMethod=None")
            await peer.log_in()

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        seen.append(session.portal)
        peer.rst()
        await back(session)
        seen.append(session.portal)

    outcome = await outcome_of(play, use=use, portals=[Portal("10.0.0.1", 3260, 1)])
    assert outcome.in_force.target_portal_group_tag == 7
    assert seen == [Portal("10.0.0.1", 3260, 7)] * 2


# -- status -------------------------------------------------------------------------------------

KINDS: dict[tuple[int, int], type[LoginRejected]] = {
    (2, 1): AuthenticationFailed,
    (2, 2): AuthorizationFailed,
    (2, 3): TargetNotFound,
    (2, 4): TargetRemoved,
    (3, 0): TargetUnavailable,
    (3, 1): TargetUnavailable,
    (3, 2): TargetUnavailable,
}


@pytest.mark.conformance("LOGIN-021")
@pytest.mark.parametrize("junk", [{}, {"transit": True, "next_stage": 3, "stat_sn": 0xBAD}])
async def test_every_status_is_an_error_of_its_own(junk: dict[str, Any]) -> None:
    codes = [*((2, detail) for detail in range(0x0C)), (3, 0), (3, 1), (3, 2), (4, 0x99)]
    texts = set()
    for code in codes:
        status = {"status_class": code[0], "status_detail": code[1]}
        outcome = await outcome_of(rounds((b"no text", {**status, **junk}), honest=False))
        error = outcome.failure
        assert isinstance(error, LoginRejected)
        assert type(error) is KINDS.get(code, LoginRejected)
        assert (error.status_class, error.status_detail) == code
        assert len(outcome.target.connections) == len(outcome.requests) == 1
        texts.add(str(error))
    assert len(texts) == len(codes)


@pytest.mark.conformance("LOGIN-021")
async def test_a_session_that_is_refused_comes_again_with_growing_pauses() -> None:
    """Class 3 may be tried again: seldom enough, and for no longer than I/O is allowed to wait."""
    attempts = 12

    async def play(target: ScriptedTarget) -> None:
        peer = await target.log_in(DefaultTime2Wait="2")
        peer.rst()
        for _ in range(attempts):
            await (await target.accept()).refuse_login(3, 1)
        await target.log_in()

    async def use(session: pyscsi_init.Session, _: ScriptedConnection) -> None:
        await back(session)

    outcome = await outcome_of(play, use=use, settings=Settings(noop_interval=0))
    times = outcome.target.recorder.times(LoginRequest)
    firsts = list(dict.fromkeys(times))[1:]
    pauses = [late - early for early, late in pairwise(firsts)]
    assert len(pauses) == attempts
    assert pauses == sorted(pauses)
    assert pauses[0] >= 0.2
    assert 4 <= pauses[-1] <= 6


# -- security that is asked for -----------------------------------------------------------------


@pytest.mark.conformance("LOGIN-025")
async def test_where_a_login_begins() -> None:
    chap = Chap(user="joe", secret=Secret("secret-96-bits-min"))
    outcome = await outcome_of(refused(2, 1))
    assert isinstance(outcome.failure, AuthenticationFailed)
    assert "wants CHAP" in str(outcome.failure)
    assert (outcome.requests[0].current_stage, outcome.keys(0)["AuthMethod"]) == (0, "None")
    outcome = await outcome_of(refused(3, 0), chap=chap)
    assert (outcome.requests[0].current_stage, outcome.keys(0)["AuthMethod"]) == (0, "CHAP")


@pytest.mark.conformance("LOGIN-025")
@pytest.mark.parametrize("status", [(0, 0), (2, 1)])
async def test_a_login_that_begins_in_the_operational_stage(status: tuple[int, int]) -> None:
    machine = LoginMachine(
        QUIET,
        initiator_name=INITIATOR,
        target_name="iqn.2026-11.example:disk",
        isid=bytes.fromhex("800000000001"),
        random_bytes=bytes,
        first_stage=Stage.LOGIN_OPERATIONAL_NEGOTIATION,
    )
    (request,) = machine.requests()
    assert (request.current_stage, request.next_stage) == (1, 3)
    assert "AuthMethod" not in said(request)
    response = LoginResponse(
        transit=True,
        current_stage=1,
        next_stage=3,
        tsih=1,
        status_class=status[0],
        status_detail=status[1],
    )
    if status == (0, 0):
        machine.receive(response)
        assert machine.finished
    else:
        with pytest.raises(AuthenticationFailed, match="wants CHAP"):
            machine.receive(response)


# -- time and losses ----------------------------------------------------------------------------


@pytest.mark.conformance("LOGIN-026")
@pytest.mark.parametrize("heard", ["silence", "half a header", "a round now and then"])
async def test_a_login_is_bounded_in_time(heard: str) -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        request = await peer.expect(LoginRequest)
        if heard == "half a header":
            await peer.send(b"\x23" + bytes(19))
        while heard == "a round now and then" and not peer.ended:
            await anyio.sleep(4)
            await peer.send(peer.login_answer(request, [], transit=False))
            request = await peer.expect(LoginRequest)
            if anyio.current_time() > begin + 12:
                break

    begin = anyio.current_time()
    outcome = await outcome_of(play, settings=Settings(login_timeout=15))
    assert isinstance(outcome.failure, LoginTimeout)
    assert anyio.current_time() - begin == pytest.approx(15, abs=1)


@pytest.mark.conformance("LOGIN-026")
async def test_a_portal_that_never_accepts() -> None:
    begin = anyio.current_time()
    async with ScriptedTarget().running() as target:
        target.unreachable = True
        with pytest.raises(ConnectError, match="no answer"):
            async with pyscsi_init.open_session(
                [target.portal],
                target.name,
                connector=target.connect,
                settings=QUIET,
                initiator_name=INITIATOR,
            ):
                pass
    assert anyio.current_time() - begin == pytest.approx(QUIET.connect_timeout, abs=1)


@pytest.mark.conformance("LOGIN-027")
@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("when", ["after connect", "after request 1", "inside a response"])
async def test_the_end_at_any_step(when: str, how: str) -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        if when == "after connect" and how == "fin":
            peer.fin()
            await peer.expect(LoginRequest)
            return
        if when != "after connect":
            request = await peer.expect(LoginRequest)
            data = peer.encode(peer.login_answer(request))
            if when == "inside a response":
                await peer._write(memoryview(data)[:50])
        getattr(peer, how)()
        peer.inbox.clear()  # what it sent before it saw the end

    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, LoginError)
    assert len(outcome.requests) <= 1


@pytest.mark.conformance("LOGIN-027")
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_the_end_right_after_the_login(how: str) -> None:
    """The session is there, so it comes back instead of failing."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.log_in()
        getattr(peer, how)()
        await target.log_in()

    async def use(session: pyscsi_init.Session, _: ScriptedConnection) -> None:
        await back(session)

    outcome = await outcome_of(play, use=use)
    assert outcome.error is None
    assert len(outcome.target.connections) == 2


@pytest.mark.conformance("LOGIN-028")
async def test_a_new_login_takes_the_place_of_the_old_session() -> None:
    """RFC 7143 6.3.5: the same ISID with TSIH 0; what was under way is over before it."""
    ended: list[float] = []
    async with ScriptedTarget().running() as target:
        peers: list[ScriptedConnection] = []
        async with session_of(target, peers) as session, anyio.create_task_group() as tasks:

            async def read() -> None:
                with pytest.raises((TaskError, pyscsi_init.errors.ConnectionLost)):
                    await session.execute(0, READ, data_in_length=512)
                ended.append(anyio.current_time())

            for _ in range(5):
                tasks.start_soon(read)
            for _ in range(5):
                await peers[0].next()
            peers[0].rst()
            again = await target.log_in()
            await back(session)
            new, old = again.login_requests[0], peers[0].login_requests[0]
            assert (bytes(new.isid), new.tsih) == (bytes(old.isid), 0)
            assert said(new)["InitiatorName"] == said(old)["InitiatorName"] == INITIATOR
            begun = target.recorder.times(LoginRequest)[-2]
            assert len(ended) == 5
            assert max(ended) < begun


@pytest.mark.conformance("LOGIN-030")
async def test_a_key_that_cannot_be_ends_the_login() -> None:
    outcome = await outcome_of(operational("MaxConnections=0"))
    assert isinstance(outcome.failure, ProtocolError)
    kinds = {type(entry.pdu) for entry in outcome.target.recorder.entries}
    assert kinds == {LoginRequest, LoginResponse}
