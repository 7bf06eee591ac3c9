# SPDX-License-Identifier: Apache-2.0
"""SendTargets: the records of an answer, and the whole way to a target that lists itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init import Settings, discover
from pyscsi_init.discovery import DiscoveredTarget, parse_send_targets
from pyscsi_init.errors import ConnectError, InvalidUrl, LoginTimeout, ProtocolError
from pyscsi_init.names import Portal
from pyscsi_init.testing import Listener, RamDisk, Target, TargetServer
from tests.support.python_target import INITIATOR, make_target, until

HERE = Portal("10.0.0.1")
N, A = "TargetName", "TargetAddress"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], []),
        ([(N, "iqn.a")], [("iqn.a", [HERE])]),
        (
            [(N, "iqn.a"), (A, "10.0.0.2:3261,7"), (A, "[fe80::1]:3260,1"), (A, "host")],
            [("iqn.a", [Portal("10.0.0.2", 3261, 7), Portal("fe80::1", 3260, 1), Portal("host")])],
        ),
        (
            [(N, "iqn.a"), (A, "10.0.0.2"), (N, "iqn.b"), (N, "iqn.a"), (A, "10.0.0.2")],
            [("iqn.a", [Portal("10.0.0.2")]), ("iqn.b", [HERE])],
        ),
        (
            [(N, "iqn.a"), (A, "0.0.0.0:3262,1"), (A, "[::]:3263,2")],
            [("iqn.a", [Portal("10.0.0.1", 3262, 1), Portal("10.0.0.1", 3263, 2)])],
        ),
        (
            [(N, "iqn.a"), (A, "bad:port:x"), (A, "10.0.0.2"), ("X-vendor", "1")],
            [("iqn.a", [Portal("10.0.0.2")])],
        ),
        ([(N, "IQN.Upper Case"), (A, "")], [("IQN.Upper Case", [HERE])]),
    ],
)
def test_records(pairs: list[tuple[str, str]], expected: list[tuple[str, list[Portal]]]) -> None:
    assert parse_send_targets(pairs, HERE) == [
        DiscoveredTarget(name, tuple(portals)) for name, portals in expected
    ]


def test_an_address_without_a_name() -> None:
    with pytest.raises(ProtocolError):
        parse_send_targets([(A, "10.0.0.2")], HERE)


@given(st.lists(st.tuples(st.sampled_from([N, A, "X-y"]), st.text(max_size=30))))
def test_any_answer_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        targets = parse_send_targets(pairs, HERE)
    except ProtocolError:
        return
    assert all(target.portals for target in targets)


@pytest.mark.anyio
async def test_discovery_of_many_targets_at_two_portals() -> None:
    """More than fits one PDU: the answer comes in parts."""
    targets = [
        Target(f"iqn.2026-11.example:disk-{number:04}", luns={0: RamDisk(1 << 20)})
        for number in range(300)
    ]
    server = TargetServer(targets, portals=[Listener(), Listener(tag=2)])
    async with server.running() as portal:
        found = await discover(portal, initiator_name=INITIATOR)
        assert [target.name for target in found] == [target.name for target in targets]
        assert {len(target.portals) for target in found} == {2}
        assert portal in found[0].portals
        await until(lambda: not server.connections)
        assert await discover(portal.address, initiator_name=INITIATOR) == found


@pytest.mark.anyio
async def test_nothing_there() -> None:
    with pytest.raises(InvalidUrl):
        await discover("::bad::", initiator_name=INITIATOR)
    server = TargetServer([make_target()])
    async with server.running() as portal:
        server.stop_listening()
        with pytest.raises(ConnectError):
            await discover(portal, initiator_name=INITIATOR)


@pytest.mark.anyio
async def test_a_portal_that_says_nothing() -> None:
    server = TargetServer([make_target()], portals=[Listener(silent=True)])
    async with server.running() as portal:
        with pytest.raises(LoginTimeout):
            await discover(portal, initiator_name=INITIATOR, settings=Settings(login_timeout=0.1))
