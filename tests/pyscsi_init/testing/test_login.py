# SPDX-License-Identifier: Apache-2.0
"""Logging in to the target over a real socket: names, stages, CHAP, discovery, redirects."""

from __future__ import annotations

import pytest

from pyscsi_init.names import Portal
from pyscsi_init.pdu import (
    LogoutResponse,
    Reject,
)
from pyscsi_init.testing import (
    Listener,
    RamDisk,
    Target,
    TargetChap,
    TargetServer,
    TargetSettings,
)
from tests.pyscsi_init.testing.raw_initiator import (
    TEST_UNIT_READY,
    connected,
    logged_in,
    read_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
SIZE = 4 << 20
PATTERN = (bytes(i * 7 % 251 for i in range(251)) * 4178)[: 1 << 20]


def make_target(**settings: object) -> Target:
    return Target(IQN, luns={0: RamDisk(SIZE)}, settings=TargetSettings(**settings))  # type: ignore[arg-type]


async def test_login_logout_and_counters() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, connected(portal) as initiator:
        response = await initiator.login(IQN)
        assert (response.status_class, response.next_stage, response.transit) == (0, 3, True)
        assert response.tsih
        assert initiator.keys["TargetPortalGroupTag"] == "1"
        assert [session.nexus.initiator_name for session in target.sessions] == [
            "iqn.2024-01.example.host:raw"
        ]
        answer = await initiator.logout()
        assert isinstance(answer, LogoutResponse)
        assert (answer.response, answer.time2wait) == (0, 2)
        assert await initiator.closed()
        assert target.sessions == []
        assert (target.counters.logins, target.counters.logouts) == (1, 1)


@pytest.mark.parametrize(("name", "status"), [("iqn.2024-01.example:other", (2, 3)), ("", (2, 3))])
async def test_a_target_that_is_not_there(name: str, status: tuple[int, int]) -> None:
    async with TargetServer([make_target()]).running() as portal, connected(portal) as initiator:
        response = await initiator.login(name)
        assert (response.status_class, response.status_detail) == status
        assert await initiator.closed()


async def test_login_needs_names_a_version_and_a_stage() -> None:
    cases: list[tuple[dict[str, str], dict[str, object], tuple[int, int]]] = [
        ({"TargetName": IQN}, {"stage": 1}, (2, 7)),
        ({"InitiatorName": "iqn.2024-01.example:i"}, {"stage": 1}, (2, 7)),
        ({"InitiatorName": "iqn.2024-01.example:i", "SessionType": "Odd"}, {"stage": 1}, (2, 9)),
        ({}, {"stage": 1, "version_min": 1}, (2, 5)),
        ({}, {"stage": 2}, (2, 0x0B)),
        (
            {"InitiatorName": "iqn.2024-01.example:i", "TargetName": IQN},
            {"stage": 1, "tsih": 9},
            (2, 0x0A),
        ),
    ]
    async with TargetServer([make_target()]).running() as portal:
        for keys, fields, status in cases:
            async with connected(portal) as initiator:
                response = await initiator.login_step(keys, **fields)  # type: ignore[arg-type]
                assert (response.status_class, response.status_detail) == status


async def test_only_named_initiators_may_log_in() -> None:
    target = Target(IQN, luns={0: RamDisk(SIZE)}, initiators=["iqn.2024-01.example.host:raw"])
    async with TargetServer([target]).running() as portal:
        async with logged_in(portal, IQN):
            pass
        async with connected(portal) as initiator:
            response = await initiator.login(IQN, initiator="iqn.2024-01.example.host:not")
            assert (response.status_class, response.status_detail) == (2, 2)


async def test_chap() -> None:
    target = Target(
        IQN, luns={0: RamDisk(SIZE)}, chap=TargetChap(user="host", secret=b"0123456789abcdef")
    )
    async with TargetServer([target]).running() as portal:
        async with logged_in(portal, IQN, chap=("host", b"0123456789abcdef")) as initiator:
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0
        for chap in (("host", b"0123456789abcdeX"), None):
            async with connected(portal) as initiator:
                response = await initiator.login(IQN, chap=chap)
                assert (response.status_class, response.status_detail) == (2, 1)
        assert target.counters.failed_logins == 2


async def test_the_target_asks_for_chap_when_the_initiator_does_not() -> None:
    target = Target(IQN, luns={}, chap=TargetChap(user="host", secret=b"0123456789abcdef"))
    async with TargetServer([target]).running() as portal, connected(portal) as initiator:
        names = {"InitiatorName": "iqn.2024-01.example:i", "TargetName": IQN}
        response = await initiator.login_step(names, stage=0, next_stage=1)
        assert (response.transit, initiator.keys["AuthMethod"]) == (False, "CHAP")
        await initiator.login_step({"AuthMethod": "CHAP", "CHAP_A": "5"}, stage=0)
        assert initiator.keys["CHAP_A"] == "5"


async def test_discovery_shows_targets_with_their_portals() -> None:
    first = Target(IQN, luns={0: RamDisk(SIZE)})
    second = Target("iqn.2024-01.example:second", luns={}, portal_group_tags=[2])
    many = [Target(f"iqn.2024-01.example:{'x' * 150}{i}", luns={}) for i in range(60)]
    server = TargetServer(
        [first, second, *many],
        portals=[Listener("127.0.0.1", tag=1), Listener("::1", tag=2, advertised="[fd00::1]:3260")],
    )
    async with server.running() as portal, connected(portal) as initiator:
        await initiator.login(None)
        found = await initiator.send_targets("All")
        own = f"127.0.0.1:{portal.port},1"
        assert found[:5] == [
            ("TargetName", IQN),
            ("TargetAddress", own),
            ("TargetAddress", "[fd00::1]:3260,2"),
            ("TargetName", "iqn.2024-01.example:second"),
            ("TargetAddress", "[fd00::1]:3260,2"),
        ]
        assert sum(key == "TargetName" for key, _ in found) == 62
        assert (await initiator.send_targets(IQN))[0] == ("TargetName", IQN)
        await initiator.start(TEST_UNIT_READY)
        assert isinstance(await initiator.receive(), Reject), "no SCSI in a discovery session"


async def test_long_answers_come_in_parts() -> None:
    targets = [Target(f"iqn.2024-01.example:{'x' * 100}{i}", luns={}) for i in range(20)]
    async with TargetServer(targets).running() as portal, connected(portal) as initiator:
        await initiator.login(None, MaxRecvDataSegmentLength="512")
        found = await initiator.send_targets("All")
        assert [value for key, value in found if key == "TargetName"] == [t.name for t in targets]


async def test_discovery_may_have_its_own_account() -> None:
    server = TargetServer(
        [make_target()], discovery_chap=TargetChap(user="finder", secret=b"fedcba9876543210")
    )
    async with server.running() as portal:
        async with connected(portal) as initiator:
            assert (await initiator.login(None)).status_class == 2
        async with connected(portal) as initiator:
            await initiator.login(None, chap=("finder", b"fedcba9876543210"))
            assert await initiator.send_targets("All")


@pytest.mark.parametrize("permanent", [False, True])
async def test_redirect(permanent: bool) -> None:
    target = make_target()
    target.redirect_to(Portal("::1", 3261), permanent=permanent)
    async with TargetServer([target]).running() as portal, connected(portal) as initiator:
        response = await initiator.login(IQN)
        assert (response.status_class, response.status_detail) == (1, 2 if permanent else 1)
        assert initiator.keys["TargetAddress"] == "[::1]:3261"
        assert await initiator.closed()


async def test_ipv6() -> None:
    async with TargetServer([make_target()], host="::1").running() as portal:
        assert portal.address == f"[::1]:{portal.port}"
        async with logged_in(portal, IQN) as initiator:
            assert (await initiator.execute(read_10(0, 1), read=512)).data == bytes(512)


async def test_the_same_isid_ends_the_older_session() -> None:
    target = make_target()
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN) as old,
        logged_in(portal, IQN) as new,
    ):
        assert await old.closed()
        assert (await new.execute(TEST_UNIT_READY)).status == 0
        assert target.counters.sessions_reinstated == 1
        async with logged_in(portal, IQN, isid=b"\x80\0\0\0\0\x02"):
            assert len(target.sessions) == 2
            assert (await new.execute(TEST_UNIT_READY)).status == 0


async def test_keys_the_initiator_leaves_out_are_offered_by_the_target() -> None:
    target = make_target(max_burst_length=4096, first_burst_length=4096)
    async with TargetServer([target]).running() as portal, connected(portal) as initiator:
        names = {"InitiatorName": "iqn.2024-01.example:i", "TargetName": IQN}
        names["DefaultTime2Retain"] = "0"
        response = await initiator.login_step(names, stage=1, next_stage=3)
        assert not response.transit, "it waits for answers"
        assert initiator.keys["MaxBurstLength"] == initiator.keys["FirstBurstLength"] == "4096"
        answers = {"MaxBurstLength": "2048", "FirstBurstLength": "1024"}
        response = await initiator.login_step(answers, stage=1, next_stage=3)
        assert response.transit
        assert target.sessions[0].parameters.max_burst_length == 2048
