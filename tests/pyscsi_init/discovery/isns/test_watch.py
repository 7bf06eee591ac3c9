# SPDX-License-Identifier: Apache-2.0
"""Watching an iSNS server on real sockets: notifications, polling, and what is left behind."""

from __future__ import annotations

import anyio
import pytest

from pyscsi_init.discovery import TargetAdded, TargetChanged, TargetRemoved
from pyscsi_init.discovery.isns import (
    IsnsSettings,
    ServerFound,
    ServerLost,
    TargetWatch,
    open_isns,
    watch_isns,
)
from tests.pyscsi_init.discovery.isns import scripted
from tests.pyscsi_init.discovery.isns.scripted import (
    D1,
    D2,
    DEREG,
    ESI,
    ME,
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
