# SPDX-License-Identifier: Apache-2.0
"""The iSNS client (RFC 4171), and the service URLs of SLP (RFC 4018).

The server's bytes are written by hand from the figures of RFC 4171. What a real server makes of the
same requests is shown in tests/pyscsi_init/discovery/isns/test_isnsd.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import anyio
import pytest

from pyscsi_init.discovery import DiscoveredTarget, TargetAdded, TargetRemoved
from pyscsi_init.discovery.isns import (
    IsnsSettings,
    TargetWatch,
    discover_isns,
    open_isns,
    watch_isns,
)
from pyscsi_init.discovery.slp import TargetUrl, parse_target_url
from pyscsi_init.errors import (
    InvalidUrl,
    IsnsBusy,
    IsnsRejected,
    IsnsSourceRefused,
    ProtocolError,
)
from pyscsi_init.names import Portal
from tests.pyscsi_init.discovery.isns import scripted
from tests.pyscsi_init.discovery.isns.scripted import (
    CLIENT,
    D1,
    D2,
    DEREG,
    ESI,
    FIRST,
    LAST,
    ME,
    QRY,
    REG,
    REPLACE,
    SCN,
    SCN_DEREG,
    SCN_REG,
    UDP,
    Honest,
    Received,
    ScriptedServer,
    in_parts,
    ip,
    target,
    text,
    tlv,
    u32,
)
from tests.support.python_target import until

pytestmark = pytest.mark.anyio

PATIENCE = 10
FAST = IsnsSettings(retry_delay=0.01)
ONE = target(D1, ("192.0.2.1", 3260, 1), ("192.0.2.2", 3261, 2))
TWO = target(D2, ("192.0.2.1", 3260, 3), ("192.0.2.2", 3261, 4))


async def next_event(watch: TargetWatch) -> object:
    with anyio.fail_after(PATIENCE):
        return await anext(watch)


async def by_udp(honest: Honest, data: bytes) -> bytes:
    """Send a request of the server's to the registered port, and give the answer."""
    assert honest.scn_port is not None
    port = honest.scn_port & 0xFFFF
    async with await anyio.create_connected_udp_socket("127.0.0.1", port) as udp:
        await udp.send(data)
        with anyio.fail_after(PATIENCE):
            return await udp.receive()


# -- headers -----------------------------------------------------------------------------------


async def test_isns_001_headers() -> None:
    """RFC 4171 5.1: ``scripted.take`` holds the version and the alignment for every request."""
    honest = Honest([ONE])
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME),
    ):
        pass
    assert {REG, QRY, DEREG, SCN_REG, SCN_DEREG} == set(server.functions())
    for request in server.received:
        replaces = REPLACE if request.function == REG else 0
        assert request.flags == CLIENT | FIRST | LAST | replaces
        assert request.sequence == 0
        assert request.attributes[0] == (32, text(ME)), "the source"


async def test_isns_001_requests_under_way_have_ids_of_their_own() -> None:
    waiting: list[Received] = []

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        waiting.append(request)
        if len(waiting) < 3:
            return []
        return [scripted.response(each, (33, u32(1)), (0, b""), *ONE) for each in waiting[::-1]]

    async with ScriptedServer(answer).running() as server:
        async with (
            open_isns(server.address, initiator_name=ME) as client,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(3):
                tasks.start_soon(client.targets)
        assert len({each.transaction for each in waiting}) == 3


# -- registration ------------------------------------------------------------------------------


async def test_isns_002_registration() -> None:
    """RFC 4171 5.6.5.1, 5.6.5.4, 6.2.2, 6.3.1, 6.4.2"""
    honest = Honest()
    honest.assign = "eid-of-the-server"
    async with ScriptedServer(honest).running() as server:
        async with open_isns(server.address, initiator_name=ME) as client:
            where = await client.listen()
            await client.register()
            assert client.entity == "eid-of-the-server"
            await client.register()
        first, second = (each for each in server.received if each.function == REG)
        portal = where.port | UDP
        assert [each for each in first.attributes if each[0] not in (1, 20)] == [
            (32, text(ME)), (0, b""), (2, u32(2)), (16, ip("127.0.0.1")), (17, u32(portal)),
            (23, u32(portal)), (32, text(ME)), (33, u32(2)),
        ]  # fmt: skip
        assert second.values(1) == [text("eid-of-the-server")] * 2, "stored and used"
        last = server.received[-1]
        assert last.function == DEREG
        assert last.attributes == [(32, text(ME)), (0, b""), (1, text("eid-of-the-server"))]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([3], IsnsRejected), ([6], IsnsSourceRefused), ([12] * 3, IsnsBusy), ([12, 12, 0], None)],
)
async def test_isns_002_refusals(statuses: list[int], expected: type[IsnsRejected] | None) -> None:
    honest = Honest()
    honest.refuse[REG] = list(statuses)
    async with (
        ScriptedServer(honest).running() as server,
        open_isns(server.address, initiator_name=ME, settings=FAST) as client,
    ):
        if expected is None:
            await client.register()
            assert client.entity == ME
        else:
            with pytest.raises(expected) as caught:
                await client.register()
            assert caught.value.status == statuses[0]
            assert client.entity is None
        assert server.functions().count(REG) == len(statuses)


# -- queries -----------------------------------------------------------------------------------


async def test_isns_003_query() -> None:
    """RFC 4171 5.6.5.2"""
    null = target("iqn.2026-11.example:disk3", ("192.0.2.1", 3260, None), ("192.0.2.2", 3260, 9))
    honest = Honest([ONE, TWO, null])
    async with ScriptedServer(honest).running() as server:
        found = await discover_isns(server.address, initiator_name=ME)
        (query,) = server.received
    assert query.attributes[:3] == [(32, text(ME)), (33, u32(1)), (0, b"")]
    wanted = dict(query.attributes[3:])
    assert {32, 34, 16, 17, 51} <= wanted.keys()
    assert set(wanted.values()) == {b""}
    assert found == [
        DiscoveredTarget(D1, (Portal("192.0.2.1", 3260, 1), Portal("192.0.2.2", 3261, 2))),
        DiscoveredTarget(D2, (Portal("192.0.2.1", 3260, 3), Portal("192.0.2.2", 3261, 4))),
        DiscoveredTarget("iqn.2026-11.example:disk3", (Portal("192.0.2.2", 3260, 9),)),
    ]


async def answered_with(parts: Iterable[bytes]) -> list[DiscoveredTarget]:
    """What is made of an answer to the query; parts are for transaction 1, the first."""

    async def answer(server: ScriptedServer, request: Received) -> Iterable[bytes]:
        return parts

    async with (
        ScriptedServer(answer).running() as server,
        open_isns(server.address, initiator_name=ME, settings=FAST) as client,
    ):
        return await client.targets()


def query_answer(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    return u32(0) + b"".join(tlv(*each) for each in [(33, u32(1)), (0, b""), *attributes])


@pytest.mark.parametrize("size", [4, 8, 12, 36, 100])
async def test_isns_004_attributes_in_several_pdus(size: int) -> None:
    """RFC 4171 5.3: "TLV boundaries need not be aligned with PDU boundaries" """
    parts = in_parts(QRY | 0x8000, query_answer([*ONE, *TWO]), 1, size)
    assert len(parts) > 3
    found = await answered_with(parts)
    assert [each.name for each in found] == [D1, D2]
    assert {len(each.portals) for each in found} == {2}


async def test_isns_004_odd_values() -> None:
    """RFC 4171 5.3.1, 6.3.2: padding, the bit for UDP, no port, nothing at all"""
    attributes = [
        (32, text(D1, nul=5)),
        (16, ip("192.0.2.1", compatible=True)), (17, u32(0)),
        (16, ip("192.0.2.2")), (17, u32(3260 | UDP)),
        (32, D2.encode() + bytes(-len(D2) % 4)),
    ]  # fmt: skip
    found = await answered_with([scripted.pdu(QRY | 0x8000, query_answer(attributes))])
    assert found == [
        DiscoveredTarget(D1, (Portal("192.0.2.1", 3260),)),
        DiscoveredTarget(D2, ()),
    ]
    assert await answered_with([scripted.pdu(QRY | 0x8000, query_answer([]))]) == []
    assert await answered_with([scripted.pdu(QRY | 0x8000, u32(0))]) == []


async def test_isns_004_a_refusal_is_of_the_whole() -> None:
    body = u32(9) + query_answer(ONE)[4:]
    with pytest.raises(IsnsRejected, match="No Such Entry"):
        await answered_with([scripted.pdu(QRY | 0x8000, body)])


@pytest.mark.parametrize(
    "body",
    [
        u32(0) + u32(32) + u32(200) + text(D1),
        u32(0) + u32(32) + u32(0xFFFFFFFC),
        u32(0) + u32(32) + u32(5) + text("abcd"),
        u32(0) + b"\0\0\0\x20",
        b"",
    ],
    ids=["beyond", "huge", "odd", "cut", "no status"],
)
async def test_isns_004_a_length_that_lies(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        await answered_with([scripted.pdu(QRY | 0x8000, body)])


# -- notifications -----------------------------------------------------------------------------


async def test_isns_005_notifications_need_a_registered_port() -> None:
    """RFC 4171 5.6.5.5"""
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        open_isns(server.address, initiator_name=ME) as client,
    ):
        await client.register()
        with pytest.raises(IsnsRejected) as caught:
            await client.register_scn()
        assert caught.value.status == 17
        await client.listen()
        await client.register()
        await client.register_scn()
        (bitmap,) = server.received[-1].values(35)
        assert not int.from_bytes(bitmap, "big") & 0x23, "the bits of management are not ours"


async def test_isns_005_notifications_are_answered_and_looked_into() -> None:
    """RFC 4171 5.6.5.8, 5.7.5.8: the same transaction id, and our name"""
    honest = Honest()
    numbers = itertools.count(500)
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=3600) as watch,
    ):
        for targets, bitmap, kind in (
            ([ONE], 0x48, TargetAdded), ([], 0x50, TargetRemoved),
        ):  # fmt: skip
            number = next(numbers)
            honest.targets = targets
            data = scripted.scn((bitmap, D1), transaction=number)
            reply = await by_udp(honest, data)
            assert reply == scripted.pdu(
                SCN | 0x8000,
                u32(0) + tlv(32, text(ME)),
                transaction=number,
                flags=CLIENT | FIRST | LAST,
            )
            assert isinstance(await next_event(watch), kind)


async def test_isns_005_status_inquiries_are_answered() -> None:
    """RFC 4171 5.6.5.13, 5.7.5.13"""
    honest = Honest()
    body = tlv(4, bytes(8)) + tlv(1, text(ME)) + tlv(16, ip("127.0.0.1")) + tlv(17, u32(UDP | 9))
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=3600),
    ):
        reply = await by_udp(honest, scripted.pdu(ESI, body, transaction=7))
    assert reply == scripted.pdu(
        ESI | 0x8000, u32(0) + body, transaction=7, flags=CLIENT | FIRST | LAST
    )


@pytest.mark.quirk("Q-24")
async def test_isns_005_a_malformed_notification() -> None:
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=3600) as watch,
    ):
        for number, body in enumerate((tlv(32, text(ME)), u32(32) + u32(99), b"")):
            honest.targets = [] if number % 2 else [ONE]
            reply = await by_udp(honest, scripted.pdu(SCN, body, transaction=number))
            assert reply[12:16] == u32(2), "Message Format Error"
            assert isinstance(await next_event(watch), (TargetAdded, TargetRemoved))


@pytest.mark.quirk("Q-24")
async def test_isns_005_a_server_that_takes_the_registration_and_sends_nothing() -> None:
    """Such servers are in the field: polling must find what they do not tell."""
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=0.02) as watch,
    ):
        assert honest.scn_registered
        honest.targets = [ONE]
        assert isinstance(await next_event(watch), TargetAdded)


async def test_isns_005_after_lost_inquiries_we_register_again() -> None:
    """RFC 4171 6.3.4: a client that is asked no more asks whether it is registered still"""
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=0.02) as watch,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(next_event, watch)
        await until(lambda: honest.scn_registered)
        honest.entity = honest.scn_port = None
        honest.scn_registered = False
        await until(lambda: honest.scn_registered)
        assert honest.entity == text(ME)
        tasks.cancel_scope.cancel()


# -- SLP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "service:iscsi:target://192.0.2.3:3260/iqn.2001-04.com.example.sn.45678",
            TargetUrl(Portal("192.0.2.3", 3260), "iqn.2001-04.com.example.sn.45678"),
        ),
        (
            f"service:iscsi:target://[2001:db8::3]:3261/{D1}",
            TargetUrl(Portal("2001:db8::3", 3261), D1),
        ),
        (f"service:iscsi:target://192.0.2.3/{D1}", TargetUrl(Portal("192.0.2.3", 3260), D1)),
        (
            f"service:iscsi:target://disk.example/{D1}/{ME}",
            TargetUrl(Portal("disk.example", 3260), D1, ME),
        ),
    ],
)
def test_isns_006_service_urls(url: str, expected: TargetUrl) -> None:
    """RFC 4018 4.1, 5.2"""
    assert parse_target_url(url) == expected
    for wrong in (url.replace("target", "sms"), url.partition("//")[0], url.rpartition("//")[2]):
        with pytest.raises(InvalidUrl):
            parse_target_url(wrong)
