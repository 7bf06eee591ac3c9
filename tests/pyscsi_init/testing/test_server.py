# SPDX-License-Identifier: Apache-2.0
"""The target over a real socket, spoken to by raw_initiator.py: sessions, data transfer, order."""

from __future__ import annotations

import socket

import anyio
import pytest

from pyscsi_init.errors import ConfigurationError
from pyscsi_init.names import Portal
from pyscsi_init.pdu import (
    RESERVED_TAG,
    DataIn,
    DataOut,
    LogoutResponse,
    NopIn,
    NopOut,
    ReadyToTransfer,
    Reject,
    SnackRequest,
)
from pyscsi_init.testing import (
    Listener,
    LogicalUnit,
    RamDisk,
    Target,
    TargetChap,
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
PATTERN = bytes(i * 7 % 251 for i in range(1 << 20))


def make_target(**settings: object) -> Target:
    return Target(IQN, luns={0: RamDisk(SIZE)}, settings=TargetSettings(**settings))  # type: ignore[arg-type]


# Login and discovery


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
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as old:
        async with logged_in(portal, IQN) as new:
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


# Data


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
@pytest.mark.parametrize("immediate", ["Yes", "No"])
async def test_writes_and_reads(digest: str, initial_r2t: str, immediate: str) -> None:
    target = make_target(max_recv_data_segment_length=4096)
    keys = {
        "HeaderDigest": digest,
        "DataDigest": digest,
        "InitialR2T": initial_r2t,
        "ImmediateData": immediate,
    }
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        for lba, blocks in ((0, 1), (5, 3), (100, 2048)):
            data = PATTERN[: blocks * 512]
            assert (await initiator.execute(write_10(lba, blocks), write=data)).status == 0
            answer = await initiator.execute(read_10(lba, blocks), read=len(data))
            assert (answer.status, answer.data == data) == (0, True)
        assert target.luns[0].disk.read(100 * 512, 1 << 20) == PATTERN


async def test_r2ts_keep_to_max_burst_and_max_outstanding() -> None:
    target = make_target(max_recv_data_segment_length=512, max_outstanding_r2t=3)
    keys = {"MaxBurstLength": "2048", "FirstBurstLength": "512"}
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        data = PATTERN[:10240]
        tag = await initiator.start(write_10(0, 20), write=data)
        asked = [await initiator.receive() for _ in range(3)]
        assert all(isinstance(pdu, ReadyToTransfer) for pdu in asked)
        spans = [(p.r2t_sn, p.buffer_offset, p.desired_data_transfer_length) for p in asked]  # type: ignore[attr-defined]
        assert spans == [(0, 512, 2048), (1, 2560, 2048), (2, 4608, 2048)]
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.05):
                await initiator.receive()
        for pdu in asked:
            assert isinstance(pdu, ReadyToTransfer)
            await initiator.answer_r2t(pdu, data)
        answer = await initiator.finish(tag, write=data)
        assert answer.status == 0
        assert target.luns[0].disk.read(0, 10240) == data


async def test_unsolicited_data() -> None:
    keys = {"ImmediateData": "No", "FirstBurstLength": "1024"}
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        for last, code in ((1024, None), (600, (0xB, 0x0C, 0x0D))):
            tag = await initiator.start(write_10(0, 4), write=PATTERN[:2048], final=False)
            for number, (offset, end) in enumerate(((0, 512), (512, last))):
                await initiator.send(
                    DataOut(
                        initiator_task_tag=tag,
                        final=end == last,
                        data_sn=number,
                        buffer_offset=offset,
                        data=PATTERN[offset:end],
                    )
                )
            answer = await initiator.finish(tag, write=PATTERN)
            assert (answer.code if answer.status else None) == code


async def test_unsolicited_data_that_was_not_agreed() -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN, InitialR2T="Yes", ImmediateData="No") as initiator,
    ):
        initiator.immediate = True
        answer = await initiator.execute(write_10(0, 1), write=bytes(512))
        assert answer.code == (0xB, 0x0C, 0x0C)


@pytest.mark.parametrize("collapse", [True, False])
async def test_data_in_keeps_to_the_initiators_limits(collapse: bool) -> None:
    target = make_target(phase_collapse=collapse)
    target.luns[0].disk.write(0, PATTERN[:8192])
    keys = {"MaxRecvDataSegmentLength": "1536", "MaxBurstLength": "4096", "FirstBurstLength": "512"}
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, **keys) as initiator,
    ):
        answer = await initiator.execute(read_10(0, 16), read=8192)
        data = [pdu for pdu in answer.pdus if isinstance(pdu, DataIn)]
        assert [len(pdu.data) for pdu in data] == [1536, 1536, 1024, 1536, 1536, 1024]
        assert [pdu.final for pdu in data] == [False, False, True] * 2
        assert [pdu.data_sn for pdu in data] == list(range(6))
        assert data[-1].status_present is collapse
        assert len(answer.pdus) == 6 + (not collapse)
        assert answer.data == PATTERN[:8192]


@pytest.mark.parametrize(
    ("expected", "data", "overflow", "underflow"),
    [(1024, 1024, 0, 0), (4096, 1024, 0, 3072), (512, 512, 512, 0)],
)
async def test_residuals_of_a_read(expected: int, data: int, overflow: int, underflow: int) -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN) as initiator,
    ):
        answer = await initiator.execute(read_10(0, 2), read=expected)
        assert (len(answer.data), answer.overflow, answer.underflow) == (data, overflow, underflow)


async def test_residuals_of_a_write() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        longer = await initiator.execute(write_10(0, 1), write=b"a" * 1024)
        assert (longer.status, longer.overflow, longer.underflow) == (0, 0, 512)
        shorter = await initiator.execute(write_10(4, 3), write=b"b" * 512)
        assert (shorter.status, shorter.overflow, shorter.underflow) == (0, 1024, 0)
        assert target.luns[0].disk.read(0, 3072) == (
            b"a" * 512 + bytes(3 * 512) + b"b" * 512 + bytes(512)
        )
        failed = await initiator.execute(b"\xc1", read=100)
        assert (failed.code, failed.underflow) == ((5, 0x20, 0), 100)


async def test_a_huge_write_allocates_nothing() -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN) as initiator,
    ):
        cdb = b"\x8a" + bytes(9) + b"\xff\xff\xff\xff\0\0"
        tag = await initiator.start(cdb, write=b"x" * 512, expected=0xFFFFFFFF)
        assert (await initiator.finish(tag)).code == (5, 0x24, 0)


async def test_luns_are_apart() -> None:
    target = Target(IQN, luns={0: RamDisk(SIZE), 300: RamDisk(SIZE, block_size=4096)})
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        luns = await initiator.execute(b"\xa0" + bytes(7) + b"\1\0\0\0", read=256)
        assert luns.data[8:] == bytes(8) + b"\x41\x2c" + bytes(6)
        assert (await initiator.execute(TEST_UNIT_READY, lun=7)).code == (5, 0x25, 0)


async def test_two_targets_may_share_a_unit() -> None:
    unit = LogicalUnit(RamDisk(SIZE))
    targets = [Target(f"iqn.2024-01.example:path{i}", luns={0: unit}) for i in range(2)]
    async with (
        TargetServer(targets).running() as portal,
        logged_in(portal, targets[0].name) as one,
        logged_in(portal, targets[1].name) as two,
    ):
        await one.execute(write_10(0, 1), write=b"s" * 512)
        assert (await two.execute(read_10(0, 1), read=512)).data == b"s" * 512
        assert await one.manage(5) == 0
        assert (await two.execute(TEST_UNIT_READY)).code == (6, 0x29, 3)


# Order and window


async def test_the_window_is_as_large_as_it_is_set() -> None:
    target = make_target(command_window=4)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        assert initiator.max_cmd_sn == initiator.cmd_sn + 3
        held = target.faults.hold(opcodes={0})
        tags = [await initiator.start(TEST_UNIT_READY) for _ in range(6)]
        await held.wait(4)
        await initiator.send(NopOut(immediate=True, initiator_task_tag=99, cmd_sn=initiator.cmd_sn))
        assert isinstance(await initiator.receive(), NopIn)
        assert held.held == 4, "what is outside of the window is ignored"
        assert initiator.max_cmd_sn == initiator.exp_cmd_sn - 1, "the window is closed"
        held.release(1)
        await initiator.finish(tags[0])
        assert initiator.max_cmd_sn == initiator.exp_cmd_sn, "and opens by one"
        held.release()


async def test_commands_are_done_in_order_even_when_they_come_in_another() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        number = initiator.cmd_sn
        late = await initiator.start(read_10(0, 1), read=512, cmd_sn=number + 1)
        old = await initiator.start(write_10(0, 1), write=b"1" * 512, cmd_sn=number)
        assert (await initiator.finish(old)).status == 0
        assert (await initiator.finish(late)).data == b"1" * 512
        again = await initiator.start(TEST_UNIT_READY, cmd_sn=number)
        tag = await initiator.start(TEST_UNIT_READY, cmd_sn=number + 2)
        assert (await initiator.finish(tag)).status == 0, f"{again} has a number of the past"


async def test_sequence_numbers_wrap() -> None:
    target = make_target(initial_stat_sn=0xFFFFFFFD)
    async with TargetServer([target]).running() as portal, connected(portal) as initiator:
        initiator.cmd_sn = 0xFFFFFFFE
        await initiator.login(IQN)
        for _ in range(6):
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0
        assert (initiator.cmd_sn, initiator.exp_stat_sn) == (4, 4)


async def test_nop_echoes_and_pings() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        await initiator.send(
            NopOut(immediate=True, initiator_task_tag=77, cmd_sn=initiator.cmd_sn, data=b"ping")
        )
        echo = await initiator.receive()
        assert isinstance(echo, NopIn)
        assert (echo.initiator_task_tag, echo.data) == (77, b"ping")
        session = target.sessions[0]
        tag = session.ping()
        ping = await initiator.receive()
        assert isinstance(ping, NopIn)
        assert (ping.initiator_task_tag, ping.target_transfer_tag) == (RESERVED_TAG, tag)
        assert tag in session.pings
        await initiator.send(
            NopOut(immediate=True, target_transfer_tag=tag, cmd_sn=initiator.cmd_sn)
        )
        await initiator.execute(TEST_UNIT_READY)
        assert session.pings == {}


async def test_an_unanswered_ping_ends_the_connection() -> None:
    target = make_target(nop_in_interval=0.01, nop_in_timeout=0.02)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        assert isinstance(await initiator.receive(), NopIn)
        assert await initiator.closed()


async def test_what_has_no_place_is_rejected() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        await initiator.send(SnackRequest(initiator_task_tag=1))
        snack = await initiator.receive()
        assert isinstance(snack, Reject)
        assert (snack.reason, len(snack.data)) == (3, 48)
        await initiator.send(DataOut(initiator_task_tag=500, target_transfer_tag=9, data=b"data"))
        assert isinstance(await initiator.receive(), Reject)
        assert target.counters.rejects == 2
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_bytes_that_are_no_pdu_end_the_connection_only() -> None:
    async with TargetServer([make_target()]).running() as portal:
        async with connected(portal) as initiator:
            await initiator.stream.send(b"\xff" * 4096)
            assert await initiator.closed()
        async with logged_in(portal, IQN) as initiator:
            await initiator.stream.send(b"\x01\x80\0\0\xff\xff\xff\xff" + bytes(48))
            assert await initiator.closed()
        async with logged_in(portal, IQN) as initiator:
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_many_bytes_to_a_slow_reader() -> None:
    """What the socket does not take waits, and nothing is lost or mixed."""
    target = make_target()
    target.luns[0].disk.write(0, PATTERN)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        tags = [await initiator.start(read_10(0, 2048), read=1 << 20) for _ in range(40)]
        for tag in tags:
            assert (await initiator.finish(tag)).data == PATTERN


# The server as a whole


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
