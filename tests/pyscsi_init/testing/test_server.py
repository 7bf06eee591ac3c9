# SPDX-License-Identifier: Apache-2.0
"""Servers as a whole: they go down, come back, keep silent and stay apart."""

from __future__ import annotations

import socket

import anyio
import pytest

from pyscsi_init.errors import ConfigurationError
from pyscsi_init.testing import (
    Listener,
    RamDisk,
    Target,
    TargetServer,
    TargetSettings,
)
from tests.pyscsi_init.testing.raw_initiator import (
    ISID,
    KEYS,
    TEST_UNIT_READY,
    connected,
    logged_in,
    read_10,
    write_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
SIZE = 4 << 20
PATTERN = (bytes(i * 7 % 251 for i in range(251)) * 4178)[: 1 << 20]


def make_target(**settings: object) -> Target:
    return Target(IQN, luns={0: RamDisk(SIZE)}, settings=TargetSettings(**settings))  # type: ignore[arg-type]


async def test_going_down_and_coming_back() -> None:
    target = make_target()
    server = TargetServer([target])
    async with server.running() as portal:
        async with logged_in(portal, IQN) as initiator:
            server.go_down()
            assert await initiator.closed()
            with pytest.raises(OSError, match=r".*"):
                await anyio.connect_tcp(portal.host, portal.port)
        server.come_back()
        async with logged_in(portal, IQN) as initiator:
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0
    assert server.connections == []


async def test_a_silent_portal() -> None:
    server = TargetServer([make_target()], portals=[Listener(silent=True)])
    async with server.running() as portal, connected(portal) as initiator:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.05):
                await initiator.login_step(dict(KEYS), stage=1, isid=ISID)


async def test_several_servers_do_not_know_each_other() -> None:
    async with (
        TargetServer([make_target()]).running() as one,
        TargetServer([make_target()]).running() as two,
    ):
        assert one.port != two.port
        async with logged_in(one, IQN) as first, logged_in(two, IQN) as second:
            await first.execute(write_10(0, 1), write=b"1" * 512)
            assert (await second.execute(read_10(0, 1), read=512)).data == bytes(512)


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = TargetServer([make_target()], port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            async with server.running():
                pass
