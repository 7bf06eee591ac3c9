# SPDX-License-Identifier: Apache-2.0
"""Text negotiation: what an answer may be, and what is in force after it (RFC 7143 6.1, 6.2)."""

from __future__ import annotations

from typing import Any

import pytest

import pyscsi_init
from pyscsi_init import Portal, Settings
from pyscsi_init.errors import LoginRejected, NegotiationFailed
from pyscsi_init.login.negotiation import Negotiation
from pyscsi_init.login.parameters import own_values
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.logging_in import (
    NO_AUTH,
    STAY,
    answer,
    outcome_of,
    rounds,
    said,
)
from tests.conformance.negotiating import digests, negotiated, refused, written

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

# -- lists --------------------------------------------------------------------------------------


@pytest.mark.conformance("NEG-001")
async def test_a_value_that_was_not_offered() -> None:
    await refused("HeaderDigest=CRC32C", digests("None"))
    await refused("DataDigest=CRC64", digests("CRC32C", "None"))


@pytest.mark.conformance("NEG-001")
@pytest.mark.conformance("NEG-002")
@pytest.mark.parametrize(
    ("proposal", "own", "answered"),
    [
        ("foo,CRC32C,None", ("None", "CRC32C"), "CRC32C"),
        ("None,CRC32C", ("CRC32C", "None"), "None"),
        ("foo,None", ("None",), "None"),
        ("foo,bar", ("CRC32C", "None"), "Reject"),
        ("CRC32C", ("None",), "Reject"),
        ("foo,CRC32C", ("None",), "Reject"),
        ("None", ("CRC32C",), "Reject"),
    ],
)
async def test_lists_that_the_target_proposes(
    proposal: str, own: tuple[str, ...], answered: str
) -> None:
    """No login of ours leaves a digest for the target to propose, so this asks where the answers
    are made."""
    for name in ("HeaderDigest", "DataDigest"):
        negotiation = Negotiation(own_values(digests(*own)))
        assert negotiation.receive(name, proposal) == (name, answered)
        assert negotiation.in_force(name) == ("None" if answered == "Reject" else answered)


# -- words --------------------------------------------------------------------------------------


@pytest.mark.conformance("NEG-003")
@pytest.mark.quirk("Q-39")
async def test_reject_leaves_the_default() -> None:
    outcome = await negotiated("MaxBurstLength=Reject")
    assert outcome.keys(1)["MaxBurstLength"] == "1048576"
    assert outcome.in_force.max_burst_length == 262144
    assert not (await negotiated("HeaderDigest=Reject")).in_force.header_digest
    error = await refused("HeaderDigest=Reject", digests("CRC32C"))
    assert isinstance(error, NegotiationFailed)


@pytest.mark.conformance("NEG-004")
async def test_irrelevant_is_no_failure() -> None:
    commands: list[Any] = []

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        commands.append(await written(session, peer))

    text = "InitialR2T=Yes ImmediateData=No FirstBurstLength=Irrelevant"
    outcome = await negotiated(text, use=use)
    assert (outcome.in_force.initial_r2t, outcome.in_force.immediate_data) == (True, False)
    ((command, unsolicited),) = commands
    assert (command.final, unsolicited) == (True, 0)
    keys = ("MaxBurstLength", "FirstBurstLength", "InitialR2T", "ImmediateData", "MaxConnections")
    text = " ".join(f"{key}=1024" if "Length" in key else f"{key}=1" for key in keys)
    outcome = await outcome_of(rounds(NO_AUTH, ("MaxOutstandingR2T=1", STAY)), discovery=True)
    assert outcome.keys(2) == {"MaxOutstandingR2T": "Irrelevant"}
    offered = {each for request in outcome.requests for each in said(request)}
    assert not offered & set(keys)


@pytest.mark.conformance("NEG-005")
async def test_unknown_keys_are_answered() -> None:
    outcome = await outcome_of(rounds(NO_AUTH, ("X-com.example.foo=1 FooBar=2", STAY)))
    assert outcome.keys(2) == {"X-com.example.foo": "NotUnderstood", "FooBar": "NotUnderstood"}


@pytest.mark.conformance("NEG-006")
async def test_not_understood() -> None:
    outcome = await negotiated("TaskReporting=NotUnderstood iSCSIProtocolLevel=NotUnderstood")
    assert outcome.in_force.task_reporting == "RFC3720"
    assert outcome.in_force.iscsi_protocol_level == 1
    for key in ("MaxBurstLength", "InitialR2T", "HeaderDigest", "ErrorRecoveryLevel"):
        await refused(f"{key}=NotUnderstood")


@pytest.mark.conformance("NEG-007")
@pytest.mark.parametrize("word", ["Reject", "Irrelevant", "NotUnderstood"])
async def test_reserved_words_are_no_proposals(word: str) -> None:
    """In a discovery session MaxConnections is not ours to offer, so this is a proposal."""
    await refused(f"MaxConnections={word}", discovery=True)
    await refused(f"X-com.example.foo={word}")


@pytest.mark.conformance("NEG-008")
async def test_an_offer_without_an_answer_is_not_in_force() -> None:
    settings = Settings(noop_interval=0, initial_r2t=False, immediate_data=False)
    commands: list[Any] = []

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        commands.append(await written(session, peer))

    outcome = await negotiated("", settings, use=use)
    assert outcome.keys(1)["InitialR2T"] == outcome.keys(1)["ImmediateData"] == "No"
    assert outcome.keys(1)["MaxBurstLength"] == "1048576"
    in_force = outcome.in_force
    assert (in_force.initial_r2t, in_force.immediate_data) == (True, False)
    assert in_force.max_burst_length == 262144
    assert in_force.target_max_recv_data_segment_length == 8192
    assert in_force.max_outstanding_r2t == 1
    assert commands[0][1] == 0


# -- values -------------------------------------------------------------------------------------


@pytest.mark.conformance("NEG-009")
async def test_how_values_are_written() -> None:
    for word in ("yes", "True", "1", "YES", ""):
        await refused(f"ImmediateData={word}")
    for number in (
        "262144~524288",
        "0262144",
        "0x",
        "0xg",
        "-1",
        "1e3",
        "18446744073709551616",
        "0x10000000000000000",
    ):
        await refused(f"MaxBurstLength={number}")
    for number in ("0x40000", "0X40000", "262144"):
        assert (await negotiated(f"MaxBurstLength={number}")).in_force.max_burst_length == 262144


@pytest.mark.conformance("NEG-010")
@pytest.mark.parametrize(
    "text",
    [
        "MaxBurstLength=1048580",
        "MaxBurstLength=511",
        "DefaultTime2Wait=1",
        "DefaultTime2Retain=1",
        "ErrorRecoveryLevel=3",
        "FirstBurstLength=100",
        "FirstBurstLength=262148",
        "MaxOutstandingR2T=9",
    ],
)
async def test_results_that_cannot_be(text: str) -> None:
    error = await refused(text)
    assert text.partition("=")[0] in str(error)


@pytest.mark.conformance("NEG-010")
async def test_no_to_a_yes() -> None:
    await refused("InitialR2T=No", Settings(noop_interval=0, initial_r2t=True))


@pytest.mark.conformance("NEG-011")
async def test_what_a_failed_login_agreed_is_forgotten() -> None:
    async def play(target: ScriptedTarget) -> None:
        first = await target.accept()
        await answer(first, NO_AUTH)
        keys = "MaxBurstLength=512 HeaderDigest=CRC32C MaxRecvDataSegmentLength=512"
        await answer(first, keys, **STAY)
        await first.refuse_login(3, 0)
        second = await target.accept()
        await answer(second, NO_AUTH)
        await answer(second, "")

    settings = digests("CRC32C", "None")
    portals = [Portal("10.0.0.1"), Portal("10.0.0.2")]
    outcome = await outcome_of(play, settings=settings, portals=portals)
    assert said(outcome.requests[4]) == said(outcome.requests[1])
    in_force = outcome.in_force
    assert (in_force.max_burst_length, in_force.header_digest) == (262144, False)
    assert in_force.target_max_recv_data_segment_length == 8192


@pytest.mark.conformance("NEG-011")
async def test_a_login_that_fails_after_its_answers_is_an_error() -> None:
    outcome = await outcome_of(
        rounds(
            NO_AUTH,
            ("MaxBurstLength=512", STAY),
            ("", {"status_class": 3, "status_detail": 2}),
            honest=False,
        )
    )
    assert isinstance(outcome.failure, LoginRejected)
