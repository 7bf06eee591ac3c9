# SPDX-License-Identifier: Apache-2.0
"""Portals that SendTargets tells of, good ones and dead ones (RFC 7143 Appendix C)."""

from __future__ import annotations

import contextlib
import socket

import pytest

from pyscsi_init import Settings, discover, open_session
from pyscsi_init.discovery import parse_send_targets
from pyscsi_init.errors import IscsiError
from pyscsi_init.names import Portal
from pyscsi_init.testing import Listener, RamDisk, Target, TargetServer
from tests.support.python_target import INITIATOR

N, A = "TargetName", "TargetAddress"
D1 = "iqn.2026-11.example:disk1"
HERE = Portal("10.0.0.1", 3260, None)


@pytest.mark.quirk("Q-18")
def test_disc_007_portals_of_a_target() -> None:
    """RFC 7143 Appendix C SendTargets Operation"""
    (found,) = parse_send_targets(
        [
            (N, D1),
            (A, "10.0.0.2:3260,1"), (A, "10.0.0.3:3260,2"), (A, "10.0.0.4:3260,1"),
            (A, "10.0.0.2:3260,1"), (A, "0.0.0.0:3260,2"), (A, "[::]:3261,2"),
        ],
        HERE,
    )  # fmt: skip
    assert found.portal_groups == {
        1: (Portal("10.0.0.2", 3260, 1), Portal("10.0.0.4", 3260, 1)),
        2: (
            Portal("10.0.0.3", 3260, 2),
            Portal("10.0.0.1", 3260, 2),
            Portal("10.0.0.1", 3261, 2),
        ),
    }


@pytest.mark.anyio
@pytest.mark.quirk("Q-17")
async def test_disc_007_dead_portals_do_not_keep_us_from_the_good_one() -> None:
    with contextlib.ExitStack() as stack:
        dead = []
        for _ in range(4):
            # A full queue of connections: what comes now is neither taken nor refused.
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            filler = stack.enter_context(socket.socket())
            filler.connect(full.getsockname())
            dead.append(full.getsockname()[1])
        target = Target(D1, luns={0: RamDisk(1 << 20)})
        server = TargetServer([target], portals=[Listener(advertised="0.0.0.0")])
        settings = Settings(connect_timeout=0.2)
        async with server.running() as portal:
            server.listeners[0].advertised = f"0.0.0.0:{portal.port}"
            (found,) = await discover(portal, initiator_name=INITIATOR)
            assert found.portals == (portal,), "the wildcard is the address that was asked"
            listed = [*(Portal("127.0.0.1", port, 1) for port in dead), *found.portals]
            async with open_session(
                listed, D1, initiator_name=INITIATOR, settings=settings
            ) as session:
                assert session.portal == portal
        with pytest.raises(IscsiError) as caught:
            async with open_session(listed[:2], D1, initiator_name=INITIATOR, settings=settings):
                pytest.fail("there is nobody")
        for one in listed[:2]:
            assert one.address in str(caught.value)
