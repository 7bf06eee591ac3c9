# SPDX-License-Identifier: Apache-2.0
"""Discovery sessions and SendTargets (RFC 7143 4.3, Appendix C)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from pyscsi_init import Settings, discover, open_session
from pyscsi_init.discovery import DiscoveredTarget, parse_send_targets
from pyscsi_init.discovery.send_targets import send_targets
from pyscsi_init.errors import IscsiError, LocalProtocolError, ProtocolError
from pyscsi_init.login import text_exchange
from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.names import Portal
from pyscsi_init.pdu import LoginRequest, LogoutRequest, Pdu, TextRequest, TextResponse
from pyscsi_init.testing import TargetServer
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget, Sender
from tests.pyscsi_init.session.scripted import Script
from tests.support.python_target import INITIATOR, make_target, until
from tests.support.scripted_session import logged_in

N, A = "TargetName", "TargetAddress"
D1, D2 = "iqn.2026-11.example:disk1", "iqn.2026-11.example:disk2"
HERE = Portal("10.0.0.1", 3260, None)
SCSI_ONLY = {
    "MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength",
    "MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder", "TaskReporting",
}  # fmt: skip

Pairs = list[tuple[str, str]]


def offered(script: Script) -> dict[str, str]:
    return {
        name: value for each in script.login_requests for name, value in decode_pairs(each.data)
    }


def sent(script: Script) -> list[Pdu]:
    return [e.pdu for e in script.recorder.entries if e.sender is Sender.INITIATOR]


@contextlib.asynccontextmanager
async def asked(
    answer: Callable[[ScriptedConnection, TextRequest], Any],
    settings: Settings | None = None,
) -> AsyncIterator[tuple[ScriptedTarget, list[DiscoveredTarget]]]:
    """A discovery whose SendTargets request ``answer`` answers; then the logout is answered."""
    async with ScriptedTarget().running() as target:

        async def script() -> None:
            peer = await target.log_in()
            await answer(peer, await peer.expect(TextRequest))
            if not peer.ended:
                await peer.log_out()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(script)
            with anyio.fail_after(20):
                found = await discover(target.portal, initiator_name=INITIATOR, settings=settings)
        yield target, found


# -- the session -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(max_burst_length=65536, first_burst_length=4096)]
)
@pytest.mark.quirk("Q-27")
def test_disc_001_keys_of_a_discovery_session(settings: Settings) -> None:
    """RFC 7143 4.3 iSCSI Session Types"""
    script = Script(settings, discovery=True).log_in()
    keys = offered(script)
    assert keys["SessionType"] == "Discovery"
    assert keys["InitiatorName"]
    assert "TargetName" not in keys
    assert keys.get("ErrorRecoveryLevel", "0") == "0"
    assert not keys.keys() & SCSI_ONLY
    assert int(keys["MaxRecvDataSegmentLength"]) >= 32768, "targets are known that break below"


@pytest.mark.anyio
async def test_disc_001_no_digest_is_offered() -> None:
    """Arrays are known that break on one here; there is no data to protect."""
    settings = Settings(header_digest=("CRC32C",), data_digest=("CRC32C", "None"))

    async def answer(peer: ScriptedConnection, request: TextRequest) -> None:
        await peer.send(peer.text(request, [(N, D1)]))

    async with asked(answer, settings) as (target, _):
        keys = dict(
            pair
            for request in target.connections[0].login_requests
            for pair in decode_pairs(request.data)
        )
    assert (keys.get("HeaderDigest", "None"), keys.get("DataDigest", "None")) == ("None", "None")


@pytest.mark.quirk("Q-11")
def test_disc_001_a_target_that_finds_keys_irrelevant() -> None:
    """RFC 7143 7.4.1 ErrorRecoveryLevel for Discovery Sessions"""
    plain = Script(discovery=True).log_in()
    rest = offered(plain).keys() - {"SessionType", "InitiatorName", "AuthMethod"}
    rest -= {"InitiatorAlias", "MaxRecvDataSegmentLength"}
    script = Script(discovery=True, **dict.fromkeys(rest, "Irrelevant")).log_in()
    task = script.ask([("SendTargets", "All")])
    script.send(script.text(script.one(TextRequest), [(N, D1)]))
    assert task.text.pairs == [(N, D1)]


def test_disc_002_nothing_but_text_and_logout() -> None:
    """RFC 7143 4.3 iSCSI Session Types: "The target MUST ONLY accept Text Requests with the
    SendTargets key and a Logout Request with reason 'close the session'." """
    script = Script(Settings(noop_interval=1, noop_timeout=1), discovery=True).log_in()
    task = script.ask([("SendTargets", "All")])
    script.pass_time(0.5)
    script.send(script.text(script.one(TextRequest), [(N, D1)]))
    assert task.text.pairs
    script.pass_time(60)
    assert script.take() == []
    assert not script.lost
    script.machine.request_logout(script.now)
    logout = script.one(LogoutRequest)
    assert logout.reason == 0
    script.send(script.logged_out(logout))
    kinds = {type(pdu) for pdu in sent(script)}
    assert kinds == {LoginRequest, TextRequest, LogoutRequest}


@pytest.mark.anyio
async def test_disc_003_send_targets_is_alone_in_its_request() -> None:
    """RFC 7143 Appendix C SendTargets Operation"""
    requests: list[TextRequest] = []

    async def answer(peer: ScriptedConnection, request: TextRequest) -> None:
        requests.append(request)
        await peer.send(peer.text(request, [(N, D1)]))

    async with asked(answer):
        pass
    (request,) = requests
    assert bytes(request.data) == b"SendTargets=All\0"
    assert request.final
    assert not request.immediate, "targets are known that count immediate text requests"


@pytest.mark.anyio
async def test_disc_003_a_normal_session_asks_for_its_own_target() -> None:
    """RFC 7143 13.3 SendTargets"""
    async with logged_in() as (session, peer):
        own = str(session.target_name)

        async def answer() -> None:
            for value in ("", own):
                request = await peer.expect(TextRequest)
                assert bytes(request.data) == f"SendTargets={value}\0".encode()
                await peer.send(peer.text(request, [(N, own), (A, "10.0.0.2:3260,1")]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            for what in (None, own):
                pairs = await send_targets(session, what)
                assert parse_send_targets(pairs, HERE) == [
                    DiscoveredTarget(own, (Portal("10.0.0.2", 3260, 1),))
                ]
        for wrong in ("All", D2):
            with pytest.raises(LocalProtocolError, match="discovery session"):
                await send_targets(session, wrong)


@pytest.mark.anyio
async def test_disc_003_a_discovery_session_says_what_it_wants() -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        open_session([portal], None, initiator_name=INITIATOR) as session,
    ):
        assert await send_targets(session)
        assert await send_targets(session, "iqn.2026-11.example:unknown") == []
        with pytest.raises(LocalProtocolError, match="All"):
            await send_targets(session, "")


# -- the records -------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("without", ["a record without an address", "no record at all"])
async def test_disc_004_records(without: str) -> None:
    """RFC 7143 Appendix C SendTargets Operation"""
    pairs: Pairs = [(N, D1), ("TargetAlias", "one"), (A, "10.0.0.2:3260,1"), (N, D2), ("X-y", "1")]

    async def answer(peer: ScriptedConnection, request: TextRequest) -> None:
        await peer.send(peer.text(request, pairs if "record without" in without else b""))

    async with asked(answer) as (target, found):
        where = (
            Portal(target.portal.host, target.portal.port, found[1].portals[0].tag)
            if found
            else None
        )
        expected = [
            DiscoveredTarget(D1, (Portal("10.0.0.2", 3260, 1),), "one"),
            DiscoveredTarget(D2, (where,) if where else ()),
        ]
        assert found == (expected if "record without" in without else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.2", Portal("10.0.0.2", 3260)),
        ("10.0.0.2,1", Portal("10.0.0.2", 3260, 1)),
        ("10.0.0.2:5003,1", Portal("10.0.0.2", 5003, 1)),
        ("10.0.0.2:5003,0x1f", Portal("10.0.0.2", 5003, 31)),
        ("10.0.0.2,65535", Portal("10.0.0.2", 3260, 65535)),
        ("[1080::8:800:200C:417A]:5003,1", Portal("1080::8:800:200C:417A", 5003, 1)),
        ("[1080::8:800:200C:417A],0X0A", Portal("1080::8:800:200C:417A", 3260, 10)),
        ("[1080::8:800:200C:417A]", Portal("1080::8:800:200C:417A", 3260)),
        ("[fe80::1%eth0]:3260,1", Portal("fe80::1%eth0", 3260, 1)),
        ("host.example,23", Portal("host.example", 3260, 23)),
        ("host.example:3261,2", Portal("host.example", 3261, 2)),
        ("host.example", Portal("host.example", 3260)),
    ],
)
def test_disc_005_forms_of_an_address(text: str, expected: Portal) -> None:
    """RFC 7143 13.8 TargetAddress"""
    assert parse_send_targets([(N, D1), (A, text)], HERE) == [DiscoveredTarget(D1, (expected,))]


@pytest.mark.parametrize(
    "junk",
    ["[fe80::1%]:3260,1", "[fe80::1%a b],1", "[::1", "10.0.0.2:0,1", "10.0.0.2:3260,x", "", ",1"],
)
def test_disc_005_an_address_that_cannot_be_read_hides_no_other(junk: str) -> None:
    (found,) = parse_send_targets([(N, D1), (A, junk), (A, "10.0.0.2,1")], HERE)
    assert found.portals == (Portal("10.0.0.2", 3260, 1),)


def parts_of(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("size", [8191, 8192, 1021])
@pytest.mark.quirk("Q-27")
def test_disc_006_thousands_of_targets_in_many_pdus(size: int) -> None:
    """RFC 7143 11.10.4 Target Transfer Tag: F=0 and a tag until the last; keys split anywhere."""
    names = [f"iqn.2026-11.example:disk-{number:05}" for number in range(5000)]
    pairs = [pair for name in names for pair in ((N, name), (A, "10.0.0.2:3260,1"))]
    parts = list(parts_of(encode_pairs(pairs), size))
    script = Script(discovery=True).log_in()
    task = script.ask([("SendTargets", "All")])
    for number, part in enumerate(parts):
        request = script.one(TextRequest)
        assert request.target_transfer_tag == (0xFFFFFFFF if number == 0 else 0)
        last = number == len(parts) - 1
        # A tag of zero is a tag: only FFFFFFFFh is none.
        tag = 0xFFFFFFFF if last else 0
        more = not last and not part.endswith(b"\0")
        script.send(script.text(request, part, final=last, continue_=more, target_transfer_tag=tag))
    found = parse_send_targets(task.text.pairs, HERE)
    assert [target.name for target in found] == names


@pytest.mark.parametrize("part", [b"TargetName=" + b"x" * 4000 + b"\0", b"", b"y" * 8000])
def test_disc_006_an_answer_without_an_end(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither bytes nor responses without an end; of the latter fewer than are taken do here."""
    assert text_exchange.MAX_TEXT_RESPONSES <= 100_000
    monkeypatch.setattr(text_exchange, "MAX_TEXT_RESPONSES", 5000)
    script = Script(discovery=True).log_in()
    task = script.ask([("SendTargets", "All")])
    octets = responses = 0
    while task.text.error is None and not script.lost and responses < 10_000:
        more = bool(part) and not part.endswith(b"\0")
        octets += len(part)
        responses += 1
        script.send(
            script.text(
                script.one(TextRequest),
                part,
                final=False,
                continue_=more,
                target_transfer_tag=7,
            )
        )
    assert isinstance(task.text.error, IscsiError)
    assert octets <= 9 << 20
    assert responses <= 5001
    assert part or responses == 5001


# -- the end ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_disc_008_the_target_ends_the_connection_after_its_answer() -> None:
    """RFC 7143 7.4.3 Target PDUs during Discovery: it may just close the connection. The answer
    is kept, and nobody comes back."""

    async def answer(peer: ScriptedConnection, request: TextRequest) -> None:
        await peer.send(peer.text(request, [(N, D1), (A, "10.0.0.2:3260,1")]))
        peer.close()

    async with asked(answer) as (target, found):
        assert found == [DiscoveredTarget(D1, (Portal("10.0.0.2", 3260, 1),))]
        assert len(target.connections) == 1


@pytest.mark.anyio
async def test_disc_008_the_target_ends_the_connection_before_its_answer() -> None:
    async with ScriptedTarget().running() as target:

        async def script() -> None:
            while True:
                peer = await target.log_in()
                await peer.expect(TextRequest)
                peer.fin()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(script)
            with pytest.raises(IscsiError):
                await discover(
                    target.portal, initiator_name=INITIATOR, settings=Settings(recovery_timeout=0)
                )
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_disc_008_discovery_reinstates_no_normal_session() -> None:
    """RFC 7143 7.4.2 Reinstatement Semantics for Discovery Sessions"""
    server = TargetServer([make_target()])
    async with server.running() as portal:
        (found,) = await discover(portal, initiator_name=INITIATOR)
        async with open_session([portal], found.name, initiator_name=INITIATOR) as session:
            for _ in range(3):
                async with open_session([portal], None, initiator_name=INITIATOR) as other:
                    assert other.isid != session.isid
                    assert await send_targets(other)
            assert session.failed is None
            assert await session.report_luns()
            assert server.counters.sessions_reinstated == 0
        await until(lambda: not server.connections)


def test_disc_004_an_address_before_any_name() -> None:
    with pytest.raises(ProtocolError):
        parse_send_targets([(A, "10.0.0.2")], HERE)


def test_disc_006_the_last_response_ends_it() -> None:
    """A tag in the last response means nothing: nobody asks for more."""
    script = Script(discovery=True).log_in()
    task = script.ask([("SendTargets", "All")])
    response: TextResponse = script.text(script.one(TextRequest), [(N, D1)], target_transfer_tag=9)
    script.send(response)
    assert task.text.pairs == [(N, D1)]
    assert script.take() == []
