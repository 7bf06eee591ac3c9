# SPDX-License-Identifier: Apache-2.0
"""The login phase: its PDUs, stages, texts and identity (RFC 7143 6.3, 11.12, 11.13)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init.errors import LoginRejected, ProtocolError
from pyscsi_init.login import LoginMachine, Parameters
from pyscsi_init.pdu import (
    AsyncMessage,
    LoginRequest,
    LogoutRequest,
    NopIn,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    Stage,
    TextResponse,
)
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget, Sender
from tests.conformance.logging_in import (
    INITIATOR,
    NO_AUTH,
    QUIET,
    READ,
    answer,
    answer_for_ever,
    back,
    operational,
    outcome_of,
    rounds,
    said,
    session_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


@pytest.mark.conformance("LOGIN-001")
async def test_only_login_requests_until_full_feature_phase() -> None:
    """Also where commands wait already: they were asked for while the session was away."""
    reads: list[bytes] = []
    async with ScriptedTarget().running() as target:
        peers: list[ScriptedConnection] = []
        async with session_of(target, peers) as session, anyio.create_task_group() as readers:

            async def read() -> None:
                reads.append((await session.execute(0, READ, data_in_length=512)).data)

            peers[0].rst()
            while session.connected:  # noqa: ASYNC110
                await anyio.sleep(0.05)
            for _ in range(3):
                readers.start_soon(read)
            again = await target.log_in()
            for _ in range(3):
                command = await again.expect(ScsiCommand)
                data = again.data_in(command, 0, bytes(512), final=True, status_present=True)
                await again.send(data)
    assert reads == [bytes(512)] * 3
    sent = [entry.pdu for entry in target.recorder.entries if entry.sender is Sender.INITIATOR]
    kinds = [type(pdu) for pdu in sent]
    assert kinds == [LoginRequest] * 4 + [ScsiCommand] * 3 + [LogoutRequest]
    for pdu in sent[:4]:
        assert pdu is not None
        assert pdu.encode()[0] == 0x43
    for connection in (0, 1):
        assert target.recorder.stream(connection, Sender.INITIATOR)[0] == 0x43


@pytest.mark.conformance("LOGIN-002")
@pytest.mark.parametrize("kind", [NopIn, ScsiResponse, TextResponse, Reject, AsyncMessage])
async def test_anything_but_a_login_response_ends_the_connection(kind: type[Pdu]) -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await peer.expect(LoginRequest)
        await peer.send(kind())
        await peer.expect_end()

    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, ProtocolError)
    assert len(outcome.requests) == 1


@pytest.mark.conformance("LOGIN-003")
@pytest.mark.quirk("Q-13")
async def test_one_identity_through_five_slow_rounds() -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer(peer, NO_AUTH, transit=False)
        for _ in range(3):
            await anyio.sleep(0.2)
            assert not peer.inbox or len(peer.inbox) == 1
            await answer(peer, "", transit=False)
        await anyio.sleep(0.2)
        await peer.log_in()

    outcome = await outcome_of(play)
    identities = {
        (pdu.initiator_task_tag, bytes(pdu.isid), pdu.tsih, pdu.cid, pdu.version_max, pdu.cmd_sn)
        for pdu in outcome.requests
    }
    assert len(outcome.requests) == 6
    assert len(identities) == 1
    sent = [entry.sender for entry in outcome.target.recorder.entries[:12]]
    assert sent == [Sender.INITIATOR, Sender.TARGET] * 6


@pytest.mark.conformance("LOGIN-003")
async def test_another_tag_in_the_response() -> None:
    outcome = await outcome_of(rounds((NO_AUTH, {"initiator_task_tag": 0x77}), honest=False))
    assert isinstance(outcome.failure, ProtocolError)


@pytest.mark.conformance("LOGIN-004")
async def test_versions() -> None:
    outcome = await outcome_of(rounds((NO_AUTH, {"version_active": 1}), honest=False))
    assert isinstance(outcome.failure, ProtocolError)
    assert (outcome.requests[0].version_max, outcome.requests[0].version_min) == (0, 0)
    refusal: dict[str, Any] = {"version_active": 1, "status_class": 2, "status_detail": 5}
    outcome = await outcome_of(rounds(("", refusal), honest=False))
    assert isinstance(outcome.failure, LoginRejected)
    assert outcome.failure.status_detail == 5
    assert "unsupported version" in str(outcome.failure)
    assert len(outcome.target.connections) == 1


@pytest.mark.conformance("LOGIN-005")
async def test_isids() -> None:
    async with ScriptedTarget().running() as target:
        peers: list[ScriptedConnection] = []
        async with session_of(target, peers) as first:
            async with (
                ScriptedTarget(name=target.name).running() as same,
                session_of(same) as second,
            ):
                assert first.isid != second.isid
            peers[0].rst()
            again = await target.log_in()
            await back(first)
            assert bytes(again.login_requests[0].isid) == first.isid
    for session in (first, second):
        assert session.isid[0] >> 6 == 0b10  # RFC 7143 11.12.5: T = 10b, "Random"


@pytest.mark.conformance("LOGIN-006")
async def test_the_tsih_of_the_final_response_counts() -> None:
    outcome = await outcome_of(_tsih_play)
    assert outcome.tsih == 0x1234
    assert {request.tsih for request in outcome.requests} == {0}
    further = LoginMachine(
        QUIET,
        initiator_name=INITIATOR,
        target_name=outcome.target.name,
        isid=bytes(outcome.requests[0].isid),
        tsih=outcome.tsih,
        cid=1,
        random_bytes=bytes,
        leading_parameters=Parameters(),
    )
    assert further.requests()[0].tsih == 0x1234


async def _tsih_play(target: ScriptedTarget) -> None:
    peer = await target.accept()
    await answer(peer, NO_AUTH, tsih=0xBAD1)
    await answer(peer, "", transit=False, tsih=0xBAD2)
    await answer(peer, "", tsih=0x1234)


@pytest.mark.conformance("LOGIN-007")
async def test_a_session_without_a_tsih() -> None:
    outcome = await outcome_of(operational(None, tsih=0))
    assert isinstance(outcome.failure, ProtocolError)
    assert "TSIH" in str(outcome.failure)


@pytest.mark.conformance("LOGIN-008")
@pytest.mark.parametrize("discovery", [False, True])
@pytest.mark.quirk("Q-10")
async def test_names_are_in_the_first_request_alone(discovery: bool) -> None:
    outcome = await outcome_of(rounds(NO_AUTH, ("", {"transit": False})), discovery=discovery)
    first = outcome.keys(0)
    assert first["InitiatorName"] == INITIATOR
    assert first.get("TargetName") == (None if discovery else outcome.target.name)
    assert first["SessionType"] == ("Discovery" if discovery else "Normal")
    for request in outcome.requests[1:]:
        assert not {"InitiatorName", "TargetName", "SessionType"} & said(request).keys()


@pytest.mark.conformance("LOGIN-009")
async def test_the_usual_stages() -> None:
    outcome = await outcome_of(rounds())
    stages = [(pdu.current_stage, pdu.next_stage, pdu.transit) for pdu in outcome.requests]
    assert stages == [(0, 1, True), (1, 3, True)]


@pytest.mark.conformance("LOGIN-009")
@pytest.mark.parametrize("security", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"current_stage": 1},
        {"current_stage": 0},
        {"next_stage": 0},
        {"next_stage": 1},
        {"next_stage": 2},
        {"next_stage": 3},
    ],
    ids=str,
)
async def test_stages_that_cannot_be(security: bool, fields: dict[str, int]) -> None:
    stage, following = (0, 1) if security else (1, 3)
    if fields in ({"current_stage": stage}, {"next_stage": following}):
        return  # this one is right here
    play = rounds((NO_AUTH, fields), honest=False) if security else operational("", **fields)
    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, ProtocolError)
    assert "stage" in str(outcome.failure)


@pytest.mark.conformance("LOGIN-011")
async def test_a_target_that_lets_us_wait() -> None:
    waiting = [("", {"transit": False})] * 6
    outcome = await outcome_of(rounds(NO_AUTH, *waiting))
    assert outcome.in_force.max_burst_length == 262144
    assert [len(pdu.data) for pdu in outcome.requests[2:]] == [0] * 6
    assert all(pdu.transit for pdu in outcome.requests[1:])


@pytest.mark.conformance("LOGIN-011")
async def test_a_target_that_lets_us_wait_for_ever() -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer_for_ever(peer, "", transit=False)

    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, ProtocolError)
    assert 6 < len(outcome.requests) < 200


@pytest.mark.conformance("LOGIN-010")
async def test_t_that_was_not_asked_for() -> None:
    chap = pyscsi_init.Chap(user="joe", secret=pyscsi_init.Secret("secret-96-bits-min"))
    skip = {"transit": True, "next_stage": Stage.LOGIN_OPERATIONAL_NEGOTIATION.value}
    outcome = await outcome_of(rounds(("AuthMethod=CHAP", skip), honest=False), chap=chap)
    assert not outcome.requests[0].transit
    assert isinstance(outcome.failure, ProtocolError)
    assert "without being asked" in str(outcome.failure)
