# SPDX-License-Identifier: Apache-2.0
"""The iSNS client against a real server, open-isns, and against a real tgt that registers there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from pyscsi_init import Settings, open_session
from pyscsi_init.discovery import DiscoveredTarget, TargetAdded, TargetChanged, TargetRemoved
from pyscsi_init.discovery.isns import (
    IsnsSettings,
    ServerFound,
    ServerLost,
    TargetWatch,
    discover_isns,
    open_isns,
    watch_isns,
)
from pyscsi_init.discovery.isns.attributes import (
    DELIMITER,
    NodeType,
    Tag,
    address,
    number,
    text,
)
from pyscsi_init.discovery.isns.messages import Request, query_targets
from pyscsi_init.discovery.isns.pdu import Function
from pyscsi_init.errors import ConnectError, DiscoveryTimeout, IsnsRejected
from pyscsi_init.names import Portal
from pyscsi_init.transport import Network
from tests.support.isns import IsnsServer
from tests.support.netns import NetworkNamespace
from tests.support.python_target import until
from tests.support.tgt import TgtServer

pytestmark = pytest.mark.anyio

ME = "iqn.2026-11.example.host:one"
D1, D2 = "iqn.2026-11.example:disk1", "iqn.2026-11.example:disk2"
FAST = IsnsSettings(retry_delay=0.02, request_timeout=2)
PATIENCE = 20


@pytest.fixture
def isns() -> Iterator[IsnsServer]:
    with IsnsServer() as server:
        yield server


@pytest.mark.root
async def test_a_server_in_a_network_namespace() -> None:
    """Questions, and notifications by UDP, from a process that is not there."""
    with NetworkNamespace("isns") as namespace:
        # open-isns resolves addresses where there is more than the loopback alone.
        namespace.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "far")
        namespace.run("ip", "addr", "add", "10.79.0.1/24", "dev", "lan")
        for link in ("lan", "far"):
            namespace.run("ip", "link", "set", link, "up")
        isns = IsnsServer()
        await elsewhere(namespace.call, isns.begin)
        try:
            there = Network(namespace.name)
            async with watch_isns(
                isns.address, initiator_name=ME, settings=FAST, network=there
            ) as watch:
                assert watch.notifies
                await elsewhere(namespace.call, isns.add_target, D1, "127.0.0.1:3260")
                assert isinstance(await next_event(watch), TargetAdded)
            found = await discover_isns(
                isns.address, initiator_name=ME, settings=FAST, network=there
            )
            assert [target.name for target in found] == [D1]
            with pytest.raises(ConnectError):
                await discover_isns(isns.address, initiator_name=ME, settings=FAST)
        finally:
            isns.close()


async def elsewhere(function: object, *args: object, **kw: object) -> None:
    """Let somebody else do something while our loop runs."""
    await anyio.to_thread.run_sync(lambda: function(*args, **kw))  # type: ignore[operator]


async def next_event(watch: TargetWatch) -> object:
    with anyio.fail_after(PATIENCE):
        return await anext(watch)


async def test_targets_and_their_portals(isns: IsnsServer) -> None:
    assert await discover_isns(isns.address, initiator_name=ME) == []
    isns.add_target(D1, "192.0.2.1:3260", "[2001:db8::1]:3261", alias="Disk one")
    isns.add_target(D2, "192.0.2.2:3260", entity="other-array")
    found = await discover_isns(isns.address, initiator_name=ME)
    by_name = {one.name: one for one in found}
    assert by_name[D1] == DiscoveredTarget(
        D1, (Portal("192.0.2.1", 3260, 1), Portal("2001:db8::1", 3261, 1)), "Disk one"
    )
    assert by_name[D2] == DiscoveredTarget(D2, (Portal("192.0.2.2", 3260, 1),))
    assert ME not in isns.nodes(), "registered for the question alone"


async def test_more_targets_than_the_server_tells_at_once(isns: IsnsServer) -> None:
    """open-isns takes and sends 8 KiB a message: they are fetched one by one."""
    names = [f"iqn.2026-11.example:disk-{number:04}-{'x' * 100}" for number in range(100)]
    array = "iqn.2026-11.example.isns:array"
    entity = text(Tag.ENTITY_IDENTIFIER, "array")
    portal = address(Tag.PORTAL_IP_ADDRESS, "192.0.2.1"), number(Tag.PORTAL_PORT, 3260)
    async with open_isns(isns.address, initiator_name=array) as client:
        for at in range(0, len(names), 40):
            nodes = [
                each
                for name in names[at : at + 40]
                for each in (
                    text(Tag.ISCSI_NAME, name),
                    number(Tag.ISCSI_NODE_TYPE, NodeType.TARGET),
                )
            ]
            objects = (entity, number(Tag.ENTITY_PROTOCOL, 2), *(portal if at == 0 else ()), *nodes)
            await client.call(
                Request(
                    Function.DEV_ATTR_REG,
                    (text(Tag.ISCSI_NAME, array), entity, DELIMITER, *objects),
                    "the registration of the array",
                )
            )
        with pytest.raises(IsnsRejected, match="status 11"):
            await client.call(query_targets(array))
    found = await discover_isns(isns.address, initiator_name=ME)
    assert sorted(one.name for one in found) == names
    assert {one.portals for one in found} == {(Portal("192.0.2.1", 3260, 1),)}


async def test_our_registration(isns: IsnsServer) -> None:
    isns.add_target(D1, "192.0.2.1:3260")
    async with open_isns(isns.address, initiator_name=ME) as client:
        assert await client.registered_entity() is None
        portal = await client.listen()
        await client.register()
        await client.register_scn()
        assert await client.registered_entity() == client.entity == ME
        listed = isns.nodes()
        assert ME in listed
        assert "Initiator" in listed
        assert f"{portal.port}/udp" in isns.admin("--list", "portals", name="array")
        await client.register()
        assert await client.registered_entity() == ME, "again, in place of the one before"
    assert ME not in isns.nodes()
    assert f"{portal.port}/udp" not in isns.admin("--list", "portals", name="array")


@pytest.mark.every_loop
async def test_targets_come_and_go_by_notification(isns: IsnsServer) -> None:
    isns.add_target(D1, "192.0.2.1:3260")
    async with watch_isns(isns.address, initiator_name=ME, poll_interval=3600) as watch:
        assert watch.notifies
        event = await next_event(watch)
        assert isinstance(event, TargetAdded)
        assert event.target.name == D1
        await elsewhere(isns.add_target, D2, "192.0.2.2:3260", entity="other")
        event = await next_event(watch)
        assert isinstance(event, TargetAdded)
        assert event.target.name == D2
        await elsewhere(isns.add_target, D1, "192.0.2.9:3260", alias="Renamed")
        while not isinstance(event, TargetChanged) or event.target.alias != "Renamed":
            event = await next_event(watch)
            assert isinstance(event, TargetChanged)
        await elsewhere(isns.remove_target, D2, entity="other")
        event = await next_event(watch)
        assert isinstance(event, TargetRemoved)
        assert event.target.name == D2
        await until(lambda: "acknowledged notification" in isns.log.read_text())
    assert ME not in isns.nodes()


async def test_a_server_that_is_restarted_has_forgotten_us(isns: IsnsServer) -> None:
    isns.add_target(D1, "192.0.2.1:3260")
    async with watch_isns(
        isns.address, initiator_name=ME, poll_interval=0.1, settings=FAST
    ) as watch:
        await next_event(watch)
        await elsewhere(isns.kill)
        assert isinstance(await next_event(watch), ServerLost)
        await elsewhere(isns.start)
        assert isinstance(await next_event(watch), ServerFound)
        assert isinstance(await next_event(watch), TargetRemoved)
        await elsewhere(isns.add_target, D2, "192.0.2.2:3260")
        assert isinstance(await next_event(watch), TargetAdded)
        assert await watch.client.registered_entity() == ME
        assert watch.notifies


async def test_a_server_that_hangs(isns: IsnsServer) -> None:
    quick = IsnsSettings(request_timeout=0.2, attempts=2, retry_delay=0.02)
    isns.pause()
    try:
        with pytest.raises(DiscoveryTimeout):
            await discover_isns(isns.address, initiator_name=ME, settings=quick)
    finally:
        isns.resume()


async def test_discovery_domains_decide() -> None:
    with IsnsServer(default_domain=False) as isns:
        isns.add_target(D1, "192.0.2.1:3260")
        assert await discover_isns(isns.address, initiator_name=ME) == []


@pytest.mark.tgt
async def test_a_target_that_registers_itself_can_be_logged_in_to(
    isns: IsnsServer, tmp_path: Path
) -> None:
    with TgtServer() as tgt:
        tgt.new_target(D1)
        tgt.add_lun(1, 1, tmp_path / "disk", size_bytes=1 << 20)
        for name, value in (
            ("iSNSServerIP", "127.0.0.1"),
            ("iSNSServerPort", isns.port),
            ("iSNSAccessControl", "Off"),
            ("iSNS", "On"),
        ):
            tgt.set_system(name, value)
        async with watch_isns(
            isns.address, initiator_name=ME, poll_interval=0.2, settings=FAST
        ) as watch:
            while not any(one.portals for one in watch.inventory.targets):
                await next_event(watch)
            (found,) = watch.inventory.targets
        assert found.name == D1
        assert any(portal.port == tgt.port for portal in found.portals)
        async with open_session(
            [Portal("127.0.0.1", tgt.port)],
            found.name,
            initiator_name=ME,
            settings=Settings(recovery_timeout=0),
        ) as session:
            assert len(await session.report_luns()) == 2
