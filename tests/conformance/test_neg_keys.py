# SPDX-License-Identifier: Apache-2.0
"""The operational keys one by one (RFC 7143 13): offers, answers, and what they change."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.errors import ConfigurationError, ProtocolError
from pyscsi_init.login import Parameters
from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import DataOut, LoginRequest, ScsiCommand
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.logging_in import (
    NO_AUTH,
    READ,
    STAY,
    WRITE,
    answer,
    back,
    outcome_of,
    rounds,
    session_of,
)
from tests.conformance.negotiating import digests, negotiated, refused, written

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


async def in_force(text: str, **settings: Any) -> Parameters:
    """What is in force after these answers to offers of these settings."""
    return (await negotiated(text, Settings(noop_interval=0, **settings))).in_force


# -- digests ------------------------------------------------------------------------------------


@pytest.mark.conformance("NEG-012")
@pytest.mark.parametrize(
    "offer", [("None",), ("CRC32C",), ("None", "CRC32C"), ("CRC32C", "None")], ids=",".join
)
@pytest.mark.parametrize("chosen", ["None", "CRC32C"])
@pytest.mark.parametrize("other", ["None", "CRC32C"])
async def test_digests(offer: tuple[str, ...], chosen: str, other: str) -> None:
    """A read and a logout go over the wire with what was agreed."""

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                result = await session.execute(0, READ, data_in_length=511)
                assert result.data == b"d" * 511

            tasks.start_soon(read)
            command = await peer.expect(ScsiCommand)
            data = peer.data_in(command, 0, b"d" * 511, final=True, status_present=True)
            await peer.send(data)

    text = f"HeaderDigest={chosen} DataDigest={other}"
    if chosen in offer and other in offer:
        outcome = await negotiated(text, digests(*offer), use=use)
        agreed = outcome.in_force
        assert (agreed.header_digest, agreed.data_digest) == (chosen == "CRC32C", other == "CRC32C")
        assert outcome.keys(1)["HeaderDigest"] == ",".join(offer)
    else:
        await refused(text, digests(*offer))


@pytest.mark.conformance("NEG-012")
async def test_the_next_connection_chooses_anew() -> None:
    async with ScriptedTarget().running() as target:
        peers: list[ScriptedConnection] = []
        async with session_of(target, peers, settings=digests("CRC32C", "None")) as session:
            assert not session.parameters.header_digest
            peers[0].rst()
            await target.log_in(HeaderDigest="CRC32C", DataDigest="None")
            await back(session)
            assert session.parameters.header_digest
            assert not session.parameters.data_digest


# -- how data leaves ----------------------------------------------------------------------------


@pytest.mark.conformance("NEG-013")
@pytest.mark.quirk("Q-34")
async def test_max_connections() -> None:
    outcome = await negotiated("MaxConnections=1")
    assert outcome.keys(1)["MaxConnections"] == "1"
    assert outcome.in_force.max_connections == len(outcome.target.connections) == 1
    for number in ("4", "0", "65536"):
        await refused(f"MaxConnections={number}")
    outcome = await outcome_of(rounds(NO_AUTH), discovery=True)
    assert "MaxConnections" not in outcome.keys(1)


WAYS = [
    # InitialR2T offer and answer, ImmediateData offer and answer, bytes without an R2T
    ("No", "No", "Yes", "Yes", 8192),
    ("No", "No", "No", "No", 8192),
    ("No", "Yes", "Yes", "Yes", 4096),
    ("No", "Yes", "Yes", "No", 0),
    ("Yes", "Yes", "No", None, 0),
    ("Yes", None, "Yes", "Yes", 4096),
    ("No", None, "No", "No", 0),
    ("No", "No", "Yes", "No", 8192),
]


@pytest.mark.conformance("NEG-014")
@pytest.mark.conformance("NEG-015")
@pytest.mark.parametrize(("r2t", "r2t_answer", "immediate", "immediate_answer", "count"), WAYS)
@pytest.mark.quirk("Q-04")
async def test_what_leaves_without_being_asked_for(
    r2t: str, r2t_answer: str | None, immediate: str, immediate_answer: str | None, count: int
) -> None:
    found: list[tuple[ScsiCommand, int]] = []

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        found.append(await written(session, peer))

    settings = Settings(
        noop_interval=0, initial_r2t=r2t == "Yes", immediate_data=immediate == "Yes"
    )
    text = "MaxRecvDataSegmentLength=4096 FirstBurstLength=8192"
    text += f" InitialR2T={r2t_answer}" if r2t_answer else ""
    text += f" ImmediateData={immediate_answer}" if immediate_answer else ""
    outcome = await negotiated(text, settings, use=use)
    keys = outcome.keys(1)
    assert (keys["InitialR2T"], keys["ImmediateData"]) == (r2t, immediate)
    assert outcome.in_force.initial_r2t == ("Yes" in (r2t, r2t_answer) or r2t_answer is None)
    assert outcome.in_force.immediate_data == ("No" not in (immediate, immediate_answer))
    command, unsolicited = found[0]
    assert unsolicited == count
    assert len(command.data) == (4096 if outcome.in_force.immediate_data else 0)


@pytest.mark.conformance("NEG-014")
@pytest.mark.conformance("NEG-015")
async def test_answers_that_give_more_than_was_offered() -> None:
    await refused("InitialR2T=No", Settings(noop_interval=0, initial_r2t=True))
    await refused("ImmediateData=Yes", Settings(noop_interval=0, immediate_data=False))


@pytest.mark.conformance("NEG-016")
@pytest.mark.quirk("Q-37")
async def test_max_recv_data_segment_length() -> None:
    for declared in (512, 8192, 16777215, None):
        found: list[tuple[ScsiCommand, int]] = []

        async def use(
            session: pyscsi_init.Session,
            peer: ScriptedConnection,
            found: list[tuple[ScsiCommand, int]] = found,
        ) -> None:
            found.append(await written(session, peer))

        text = "InitialR2T=No ImmediateData=Yes"
        text += "" if declared is None else f" MaxRecvDataSegmentLength={declared}"
        outcome = await negotiated(text, use=use)
        assert len(found[0][0].data) == min(declared or 8192, 16384)
        assert found[0][1] == 16384
        sent = outcome.target.recorder.sent(DataOut)
        assert all(len(pdu.data) <= (declared or 8192) for pdu in sent)
        assert outcome.in_force.target_max_recv_data_segment_length == (declared or 8192)
        assert "MaxRecvDataSegmentLength" not in outcome.keys(0)
        assert outcome.keys(1)["MaxRecvDataSegmentLength"] == "262144"
        assert len(outcome.requests) == 2
    for declared in (256, 511, 1 << 24):
        await refused(f"MaxRecvDataSegmentLength={declared}")


async def solicited(text: str, length: int, *r2ts: tuple[int, int]) -> list[list[DataOut]]:
    """A write of so many bytes for which the target asks with these R2Ts (offset, length)."""
    bursts: list[list[DataOut]] = []

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                await session.execute(0, WRITE, data_out=bytes(length))

            tasks.start_soon(write)
            command = await peer.expect(ScsiCommand)
            for number, (offset, count) in enumerate(r2ts):
                await peer.send(peer.r2t(command, offset, count, r2t_sn=number))
                bursts.append([])
                while not bursts[-1] or not bursts[-1][-1].final:
                    bursts[-1].append(await peer.expect(DataOut))
            await peer.send(peer.response(command))

    await negotiated(f"InitialR2T=Yes ImmediateData=No {text}", use=use)
    return bursts


@pytest.mark.conformance("NEG-017")
async def test_max_burst_length() -> None:
    bursts = await solicited("MaxBurstLength=512", 1024, (0, 512), (512, 512))
    assert [[len(pdu.data) for pdu in burst] for burst in bursts] == [[512], [512]]
    await refused("MaxBurstLength=511")
    await refused("MaxBurstLength=16777216", Settings(noop_interval=0, max_burst_length=2**24 - 1))


@pytest.mark.conformance("NEG-017")
async def test_an_r2t_for_more_than_max_burst_length() -> None:
    settings = Settings(noop_interval=0, recovery_timeout=0)
    async with ScriptedTarget(MaxBurstLength="512", FirstBurstLength="512").running() as target:
        peers: list[ScriptedConnection] = []
        async with session_of(target, peers, settings=settings) as session:
            async with anyio.create_task_group() as tasks:

                async def write() -> None:
                    with pytest.raises(pyscsi_init.errors.IscsiError):
                        await session.execute(0, WRITE, data_out=bytes(16384))

                tasks.start_soon(write)
                command = await peers[0].expect(ScsiCommand)
                await peers[0].send(peers[0].r2t(command, 512, 1024))
                await peers[0].expect_end()
            assert isinstance(session.last_error, ProtocolError)
            await target.log_in()
            await back(session)
        assert target.recorder.sent(DataOut) == []


@pytest.mark.conformance("NEG-018")
async def test_first_burst_length() -> None:
    found: list[tuple[ScsiCommand, int]] = []

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        found.append(await written(session, peer))

    text = "InitialR2T=No ImmediateData=Yes MaxBurstLength=4096 FirstBurstLength=65536"
    outcome = await negotiated(text, use=use)
    assert outcome.in_force.first_burst_length == 4096
    assert found[0][1] == 4096
    keys = outcome.keys(1)
    assert int(keys["FirstBurstLength"]) <= int(keys["MaxBurstLength"])
    with pytest.raises(ConfigurationError, match=r"13\.14"):
        Settings(first_burst_length=8192, max_burst_length=4096)
    assert (await in_force("FirstBurstLength=512")).first_burst_length == 512
    for number in ("511", "16777216", "262148"):
        await refused(f"FirstBurstLength={number}")


@pytest.mark.conformance("NEG-018")
@pytest.mark.quirk("Q-08")
async def test_a_legal_first_burst_is_offered_where_it_is_irrelevant() -> None:
    settings = Settings(noop_interval=0, initial_r2t=True, immediate_data=False)
    outcome = await negotiated("", settings)
    assert 512 <= int(outcome.keys(1)["FirstBurstLength"]) <= int(outcome.keys(1)["MaxBurstLength"])


# -- time, order, recovery ----------------------------------------------------------------------


@pytest.mark.conformance("NEG-019")
@pytest.mark.parametrize("seconds", [2, 5, 30])
async def test_time_to_wait_is_kept_after_a_loss(seconds: int) -> None:
    lost: list[float] = []
    async with ScriptedTarget(DefaultTime2Wait=str(seconds)).running() as target:
        peers: list[ScriptedConnection] = []
        async with session_of(target, peers) as session:
            peers[0].rst()
            lost.append(anyio.current_time())
            await (await target.accept(within=seconds + 1)).log_in()
            await back(session)
            assert session.parameters.default_time2wait == seconds
        again = target.recorder.times(LoginRequest)[2]
        assert again - lost[0] == pytest.approx(seconds, abs=0.3)


@pytest.mark.conformance("NEG-019")
async def test_times_that_cannot_be() -> None:
    outcome = await negotiated("DefaultTime2Wait=5 DefaultTime2Retain=0")
    assert outcome.keys(1)["DefaultTime2Wait"] == "2"
    assert outcome.keys(1)["DefaultTime2Retain"] == "0"
    assert (outcome.in_force.default_time2wait, outcome.in_force.default_time2retain) == (5, 0)
    for text in ("DefaultTime2Wait=3601", "DefaultTime2Wait=1", "DefaultTime2Retain=3601"):
        await refused(text)


@pytest.mark.conformance("NEG-020")
async def test_max_outstanding_r2t() -> None:
    for number in (1, 8, 16):
        agreed = await in_force(f"MaxOutstandingR2T={number}", max_outstanding_r2t=16)
        assert agreed.max_outstanding_r2t == number
    for wrong in (0, 9, 65536):
        await refused(f"MaxOutstandingR2T={wrong}")


@pytest.mark.conformance("NEG-021")
@pytest.mark.parametrize("key", ["DataPDUInOrder", "DataSequenceInOrder"])
async def test_order(key: str) -> None:
    """We offer Yes, and by OR nothing else can come of it."""
    for text in (f"{key}=Yes", ""):
        outcome = await negotiated(text)
        assert outcome.keys(1)[key] == "Yes"
        assert outcome.in_force.data_pdu_in_order
        assert outcome.in_force.data_sequence_in_order
    await refused(f"{key}=No")
    await refused(f"{key}=no")


@pytest.mark.conformance("NEG-022")
async def test_error_recovery_level() -> None:
    outcome = await negotiated("ErrorRecoveryLevel=0")
    assert outcome.keys(1)["ErrorRecoveryLevel"] == "0"
    assert outcome.in_force.error_recovery_level == 0
    for level in ("1", "2", "3"):
        await refused(f"ErrorRecoveryLevel={level}")
    outcome = await outcome_of(rounds(NO_AUTH), discovery=True)
    assert outcome.keys(1)["ErrorRecoveryLevel"] == "0"
    assert outcome.in_force.error_recovery_level == 0


@pytest.mark.conformance("NEG-023")
async def test_task_reporting() -> None:
    outcome = await negotiated("TaskReporting=RFC3720")
    assert {"RFC3720", "ResponseFence"} <= set(outcome.keys(1)["TaskReporting"].split(","))
    assert outcome.in_force.task_reporting == "RFC3720"
    assert (await in_force("TaskReporting=ResponseFence")).task_reporting == "ResponseFence"
    assert (await in_force("")).task_reporting == "RFC3720"
    await refused("TaskReporting=FastAbort")
    outcome = await outcome_of(rounds(NO_AUTH), discovery=True)
    assert "TaskReporting" not in outcome.keys(1)


@pytest.mark.conformance("NEG-024")
async def test_protocol_level() -> None:
    """We offer level 1, so nothing of RFC 7144 is ever in use: PRI is 0."""
    found: list[ScsiCommand] = []

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        found.append((await written(session, peer))[0])

    for text in ("iSCSIProtocolLevel=1", "iSCSIProtocolLevel=0", ""):
        outcome = await negotiated(text, use=use)
        assert outcome.keys(1)["iSCSIProtocolLevel"] == "1"
        assert found[-1].encode()[2] == 0
    await refused("iSCSIProtocolLevel=2")
    await refused("iSCSIProtocolLevel=32")


@pytest.mark.conformance("NEG-025")
async def test_markers() -> None:
    text = "IFMarker=Yes OFMarker=Yes IFMarkInt=2048~8192 OFMarkInt=2048~8192"
    outcome = await outcome_of(rounds(NO_AUTH, (text, STAY)))
    assert set(outcome.keys(2)) == {"IFMarker", "OFMarker", "IFMarkInt", "OFMarkInt"}
    assert set(outcome.keys(2).values()) == {"Reject"}
    assert not {key for key in outcome.keys(1) if "Mark" in key}


@pytest.mark.conformance("NEG-026")
@pytest.mark.parametrize("security", [True, False])
@pytest.mark.parametrize("alias", ["", "Größe und Maß", "a" * 255, "日本語"])
async def test_aliases(alias: str, security: bool) -> None:
    line = encode_pairs([("TargetAlias", alias)])
    other = b"AuthMethod=None\0"

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer(peer, other + line if security else other)
        await answer(peer, b"" if security else line)

    outcome = await outcome_of(play)
    assert outcome.in_force.target_alias == alias


@pytest.mark.conformance("NEG-026")
async def test_private_keys_of_ours_are_not_sent_unasked() -> None:
    for discovery in (False, True):
        outcome = await outcome_of(rounds(), discovery=discovery)
        for number in range(len(outcome.requests)):
            assert not [key for key in outcome.keys(number) if key.startswith("X")]
