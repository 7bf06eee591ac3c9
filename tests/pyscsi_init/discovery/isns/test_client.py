# SPDX-License-Identifier: Apache-2.0
"""The iSNS client on real sockets, against a server that a test plays."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import anyio
import pytest

from pyscsi_init.discovery import DiscoveredTarget
from pyscsi_init.discovery.isns import (
    IsnsSettings,
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
    ME,
    QRY,
    REG,
    Honest,
    Received,
    ScriptedServer,
    target,
    text,
    u32,
)

pytestmark = pytest.mark.anyio

FAST = IsnsSettings(retry_delay=0.01)
ONE = target(D1, ("192.0.2.1", 3260, 1))
TWO = target(D2, ("192.0.2.2", 3260, 1))


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


async def test_a_block_that_asks_nothing_ends() -> None:
    """The client's task was told to stop before it had begun, and then ran for ever."""
    with anyio.fail_after(20):
        async with open_isns("127.0.0.1:1", initiator_name="iqn.2026-11.example:nobody"):
            pass
