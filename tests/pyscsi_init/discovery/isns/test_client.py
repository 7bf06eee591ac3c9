# SPDX-License-Identifier: Apache-2.0
"""The iSNS client on real sockets, against a server that a test plays."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import anyio
import pytest

from pyscsi_init.discovery import DiscoveredTarget, TargetAdded, TargetChanged, TargetRemoved
from pyscsi_init.discovery.isns import (
    IsnsSettings,
    ServerFound,
    ServerLost,
    TargetWatch,
    discover_isns,
    open_isns,
    parse_server,
    watch_isns,
)
from pyscsi_init.errors import (
    ConnectError,
    DiscoveryTimeout,
    InvalidName,
    InvalidUrl,
    IsnsBusy,
    IsnsRejected,
    IsnsSourceRefused,
    ProtocolError,
)
from pyscsi_init.names import Portal
from tests.pyscsi_init.discovery.isns import scripted
from tests.pyscsi_init.discovery.isns.scripted import (
    D1,
    D2,
    DEREG,
    ESI,
    ME,
    QRY,
    REG,
    SCN_DEREG,
    SCN_REG,
    UDP,
    Honest,
    Received,
    ScriptedServer,
    target,
    text,
    tlv,
    u32,
)
from tests.support.python_target import until

pytestmark = pytest.mark.anyio

FAST = IsnsSettings(retry_delay=0.01)
ONE = target(D1, ("192.0.2.1", 3260, 1))
TWO = target(D2, ("192.0.2.2", 3260, 1))
PATIENCE = 10


async def next_event(watch: TargetWatch) -> object:
    with anyio.fail_after(PATIENCE):
        return await anext(watch)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("192.0.2.9", Portal("192.0.2.9", 3205)),
        ("isns.example:3260", Portal("isns.example", 3260)),
        ("2001:db8::9", Portal("2001:db8::9", 3205)),
        ("[2001:db8::9]", Portal("2001:db8::9", 3205)),
        ("[2001:db8::9]:3260", Portal("2001:db8::9", 3260)),
    ],
)
def test_addresses_of_servers(given: str, expected: Portal) -> None:
    assert parse_server(given) == expected


async def test_a_query() -> None:
    honest = Honest([ONE, TWO])
    async with ScriptedServer(honest).running() as server:
        found = await discover_isns(server.address, initiator_name=ME)
        assert [one.name for one in found] == [D1, D2]
        assert found[0] == DiscoveredTarget(D1, (Portal("192.0.2.1", 3260, 1),))
        assert server.functions() == [QRY], "nothing is registered without need"


async def test_nothing_is_shown_to_a_name_that_is_not_registered() -> None:
    honest = Honest()

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        honest.targets = [ONE] if honest.entity is not None else []
        return await honest(server, request)

    async with ScriptedServer(answer).running() as server:
        found = await discover_isns(server.address, initiator_name=ME)
        assert [one.name for one in found] == [D1]
        assert server.functions()[-2:] == [QRY, DEREG]
        assert honest.entity is None


async def test_a_server_that_knows_no_source_it_has_not_registered() -> None:
    honest = Honest([ONE])

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        if request.function == QRY and honest.entity is None:
            return [scripted.response(request, status=6)]
        return await honest(server, request)

    async with ScriptedServer(answer).running() as server:
        assert await discover_isns(server.address, initiator_name=ME)
        honest.refuse[REG] = [8]
        with pytest.raises(IsnsSourceRefused, match="status 8"):
            await discover_isns(server.address, initiator_name=ME)


async def test_a_registration_of_somebody_else_is_left_alone() -> None:
    honest = Honest()
    honest.entity = text("daemon.example")
    async with ScriptedServer(honest).running() as server:
        assert await discover_isns(server.address, initiator_name=ME) == []
        assert set(server.functions()) == {QRY}
        async with watch_isns(server.address, initiator_name=ME) as watch:
            assert watch.client.entity == "daemon.example"
            registration = next(each for each in server.received if each.function == REG)
            assert registration.values(32) == [text(ME)], "as the source, and no node"
        dereg = server.received[-1]
        assert dereg.function == DEREG
        assert [tag for tag, _ in dereg.attributes] == [32, 0, 16, 17], "our portal alone"


async def test_the_identifier_that_the_server_assigns_is_used() -> None:
    honest = Honest()
    honest.assign = "assigned-by-server"
    async with ScriptedServer(honest).running() as server:
        async with open_isns(server.address, initiator_name=ME) as client:
            await client.register()
            assert client.entity == "assigned-by-server"
        assert server.received[-1].values(1) == [text("assigned-by-server")]


async def test_statuses_are_errors() -> None:
    honest = Honest([ONE])
    async with (
        ScriptedServer(honest).running() as server,
        open_isns(server.address, initiator_name=ME, settings=FAST) as client,
    ):
        honest.refuse[REG] = [3]
        with pytest.raises(IsnsRejected, match="Invalid Registration") as caught:
            await client.register()
        assert caught.value.status == 3
        honest.refuse[QRY] = [12, 12, 0]
        assert await client.targets()
        honest.refuse[QRY] = [12, 12, 12]
        with pytest.raises(IsnsBusy):
            await client.targets()
        with pytest.raises(IsnsRejected, match="poll it"):
            await client.register_scn()


async def test_a_server_without_entity_status_inquiries() -> None:
    honest = Honest()
    honest.refuse[REG] = [21]
    async with ScriptedServer(honest).running() as server:
        async with watch_isns(server.address, initiator_name=ME) as watch:
            assert watch.notifies
        first, second = (each for each in server.received if each.function == REG)
        assert first.values(20)
        assert not second.values(20)


@pytest.mark.parametrize("circle", [False, True])
async def test_a_server_whose_answer_would_be_too_long(circle: bool) -> None:
    honest = Honest()
    targets = {D1: ONE, D2: TWO}
    names = [D1, ME, D2]

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        key = request.attributes[1]
        if request.function == scripted.GET_NEXT:
            after = key[1].rstrip(b"\0").decode()
            at = names.index(after) + 1 if after else 0
            if at == len(names):
                if not circle:
                    return [scripted.response(request, status=9)]
                at = 0
            kind = u32(1 if names[at] in targets else 2)
            return [scripted.response(request, (32, text(names[at])), (0, b""), (33, kind))]
        if key[0] == 33:
            return [scripted.response(request, status=11)]
        name = key[1].rstrip(b"\0").decode()
        if request.attributes[-1][0] == 51:
            assert name != ME, "an initiator is not asked for its portals"
            return [scripted.response(request, key, (0, b""), *targets[name])]
        return await honest(server, request)

    async with (
        ScriptedServer(answer).running() as server,
        open_isns(server.address, initiator_name=ME) as client,
    ):
        if circle:
            with pytest.raises(ProtocolError, match="circle"):
                await client.targets()
        else:
            found = await client.targets()
            assert [one.name for one in found] == [D1, D2]
            assert found[1].portals == (Portal("192.0.2.2", 3260, 1),)


async def test_two_queries_at_once() -> None:
    honest = Honest([ONE])
    async with ScriptedServer(honest).running() as server:
        async with (
            open_isns(server.address, initiator_name=ME) as client,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(5):
                tasks.start_soon(client.targets)
        assert len({each.transaction for each in server.received}) == 5
        assert server.connections == 1


async def test_a_connection_that_is_cut_under_a_query() -> None:
    honest = Honest([ONE])
    cuts = 2

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        nonlocal cuts
        if cuts:
            cuts -= 1
            assert server.stream is not None
            await server.stream.aclose()
            return []
        return await honest(server, request)

    async with ScriptedServer(answer).running() as server:
        found = await discover_isns(server.address, initiator_name=ME, settings=FAST)
        assert [one.name for one in found] == [D1]
        assert server.connections == 3
        assert len({each.transaction for each in server.received}) == 1


async def test_a_server_that_says_nothing() -> None:
    async def answer(server: ScriptedServer, request: Received) -> None:
        return None

    async with ScriptedServer(answer).running() as server:
        quick = IsnsSettings(request_timeout=0.05, attempts=2, retry_delay=0.01)
        with pytest.raises(DiscoveryTimeout, match=r"did not answer within 0\.05 s"):
            await discover_isns(server.address, initiator_name=ME, settings=quick)
        assert server.connections == 2


async def test_a_server_that_is_none() -> None:
    async def answer(server: ScriptedServer, request: Received) -> Iterable[bytes]:
        return [b"HTTP/1.1 400 Bad Request\r\n\r\n"]

    async with ScriptedServer(answer).running() as server:
        with pytest.raises(ProtocolError, match=server.address):
            await discover_isns(server.address, initiator_name=ME)


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectError, match=r"iSNS server .* nothing listens there"):
        await discover_isns(address, initiator_name=ME, settings=FAST)
    with pytest.raises(ConnectError):
        async with watch_isns(address, initiator_name=ME, settings=FAST):
            pytest.fail("there is nothing to watch")
    with pytest.raises(InvalidUrl):
        await discover_isns("::bad::", initiator_name=ME)
    with pytest.raises(InvalidName):
        await discover_isns(address, initiator_name="nobody")


# -- watching ----------------------------------------------------------------------------------


async def notify(server: ScriptedServer, honest: Honest, data: bytes, way: str) -> bytes | None:
    """Send a request of the server's to the client; by UDP its answer is given."""
    if way == "tcp":
        assert server.stream is not None
        await server.stream.send(data)
        return None
    assert honest.scn_port is not None
    assert honest.scn_port & UDP
    port = honest.scn_port & 0xFFFF
    async with await anyio.create_connected_udp_socket("127.0.0.1", port) as udp:
        await udp.send(data)
        with anyio.fail_after(PATIENCE):
            return await udp.receive()


@pytest.mark.every_loop
@pytest.mark.parametrize("way", ["tcp", "udp"])
async def test_targets_come_and_go(way: str) -> None:
    honest = Honest([ONE])
    answered = []

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        if request.function == 0x8008:
            answered.append(request)
            return []
        return await honest(server, request)

    async with ScriptedServer(answer).running() as server:
        async with watch_isns(server.address, initiator_name=ME, poll_interval=3600) as watch:
            assert watch.notifies
            assert honest.scn_registered
            event = await next_event(watch)
            assert isinstance(event, TargetAdded)
            assert event.target.name == D1

            honest.targets = [ONE, TWO]
            reply = await notify(server, honest, scripted.scn((0x48, D2), transaction=9), way)
            event = await next_event(watch)
            assert isinstance(event, TargetAdded)
            assert event.target.name == D2
            if reply is not None:
                assert reply[2:4] == b"\x80\x08"
                assert reply[8:10] == b"\0\x09"

            honest.targets = [target(D1, ("192.0.2.1", 3260, 2)), TWO]
            await notify(server, honest, scripted.scn((0x44, D1), transaction=10), way)
            event = await next_event(watch)
            assert isinstance(event, TargetChanged)
            assert event.before.portals[0].tag == 1
            assert event.target.portals[0].tag == 2

            honest.targets = [TWO]
            await notify(server, honest, scripted.scn((0x50, D1), transaction=11), way)
            event = await next_event(watch)
            assert isinstance(event, TargetRemoved)
            assert event.target.name == D1
            assert [one.name for one in watch.inventory.targets] == [D2]
        if way == "tcp":
            assert {each.transaction for each in answered} == {9, 10, 11}
        assert server.functions()[-2:] == [SCN_DEREG, DEREG]
        assert honest.entity is None


async def test_a_malformed_notification_is_looked_into() -> None:
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=3600) as watch,
    ):
        honest.targets = [ONE]
        bad = scripted.pdu(scripted.SCN, tlv(35, u32(8)))
        reply = await notify(server, honest, bad, "udp")
        assert reply is not None
        assert reply[12:16] == u32(2), "Message Format Error"
        assert isinstance(await next_event(watch), TargetAdded)


async def test_a_status_inquiry_changes_nothing() -> None:
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=3600),
    ):
        queries = len(server.received)
        body = tlv(4, bytes(8)) + tlv(1, text(ME))
        reply = await notify(server, honest, scripted.pdu(ESI, body), "udp")
        assert reply is not None
        assert reply[12:] == u32(0) + body
        assert len(server.received) == queries


async def test_a_server_that_never_notifies_is_looked_at() -> None:
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=0.02) as watch,
    ):
        assert watch.notifies, "it took the registration"
        honest.targets = [ONE]
        assert isinstance(await next_event(watch), TargetAdded)
        honest.targets = []
        assert isinstance(await next_event(watch), TargetRemoved)


@pytest.mark.parametrize("refused", [REG, SCN_REG])
async def test_a_server_that_takes_no_registration_is_looked_at(refused: int) -> None:
    honest = Honest()
    honest.refuse[refused] = [15] * 1000
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=0.02) as watch,
    ):
        assert not watch.notifies
        honest.targets = [ONE]
        assert isinstance(await next_event(watch), TargetAdded)


async def test_a_server_that_has_forgotten_us() -> None:
    """As after a restart, or when its status inquiries were lost on the way."""
    honest = Honest()
    async with (
        ScriptedServer(honest).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=0.02) as watch,
    ):
        honest.entity = honest.scn_port = None
        honest.scn_registered = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(next_event, watch)
            await until(lambda: honest.scn_registered)
            tasks.cancel_scope.cancel()
        assert watch.notifies
        assert honest.entity == text(ME)


async def test_a_server_that_goes_away_and_comes_back() -> None:
    honest = Honest([ONE])
    away = False

    async def answer(server: ScriptedServer, request: Received) -> list[bytes]:
        if away:
            assert server.stream is not None
            await server.stream.aclose()
            return []
        return await honest(server, request)

    async with (
        ScriptedServer(answer).running() as server,
        watch_isns(server.address, initiator_name=ME, poll_interval=0.02, settings=FAST) as watch,
    ):
        await next_event(watch)
        away = True
        assert isinstance(await next_event(watch), ServerLost)
        honest.targets = [TWO]
        away = False
        assert isinstance(await next_event(watch), ServerFound)
        assert isinstance(await next_event(watch), TargetRemoved)
        assert isinstance(await next_event(watch), TargetAdded)


async def test_cancelling_deregisters() -> None:
    honest = Honest()
    async with ScriptedServer(honest).running() as server:
        async with anyio.create_task_group() as tasks:

            async def look() -> None:
                async with watch_isns(server.address, initiator_name=ME) as watch:
                    await anext(watch)

            tasks.start_soon(look)
            await until(lambda: honest.scn_registered)
            tasks.cancel_scope.cancel()
        assert server.functions()[-2:] == [SCN_DEREG, DEREG]
        assert honest.entity is None


async def test_an_error_of_the_block_leaves_as_itself() -> None:
    honest = Honest()
    async with ScriptedServer(honest).running() as server:

        async def fail() -> None:
            async with open_isns(server.address, initiator_name=ME) as client:
                await client.register()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert honest.entity is None
