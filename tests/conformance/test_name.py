# SPDX-License-Identifier: Apache-2.0
"""iSCSI names, port names and portals (RFC 7143 4.2.7, 4.4.2, 13.8)."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import anyio
import pytest

from pyscsi_init import Settings, open_session
from pyscsi_init.discovery import parse_send_targets
from pyscsi_init.errors import ConnectError, InvalidName, InvalidUrl
from pyscsi_init.login.text import decode_pairs
from pyscsi_init.names import (
    Portal,
    check_iscsi_name,
    initiator_port_name,
    make_isid,
    prepare_name,
    target_port_name,
)
from pyscsi_init.testing import RamDisk, Target, TargetServer
from pyscsi_init.testing.scripted import ScriptedTarget
from pyscsi_init.transport.sockets import connect
from pyscsi_init.url import parse_url
from tests.support.python_target import INITIATOR, make_target

HERE = Portal("10.0.0.1")
LONG = "iqn.2001-04.com.example:" + "x" * 199
"""223 bytes."""


@pytest.mark.anyio
async def test_name_001_the_longest_name_is_used() -> None:
    """RFC 7143 4.2.7.2 iSCSI Name Encoding"""
    assert len(LONG.encode()) == 223
    (found,) = parse_send_targets([("TargetName", LONG)], HERE)
    target = Target(found.name, luns={0: RamDisk(1 << 20)})
    async with (
        TargetServer([target]).running() as portal,
        open_session([portal], LONG, initiator_name=LONG[:-1] + "i") as session,
    ):
        assert session.target_name == LONG


@pytest.mark.parametrize("name", [LONG + "x", LONG[:-1] + "ü"])
def test_name_001_a_longer_one_is_refused_with_its_length(name: str) -> None:
    """Bytes are counted, not characters; a target list is not spoilt by one such name."""
    with pytest.raises(InvalidName, match="224 bytes"):
        check_iscsi_name(name)
    with pytest.raises(InvalidUrl, match="224 bytes"):
        parse_url(f"iscsi://10.0.0.1/{name}")
    found = parse_send_targets([("TargetName", name), ("TargetName", LONG)], HERE)
    assert [target.name for target in found] == [name, LONG]


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2001-04.com.example:storage:disk", "iqn.2001-04.com.example",
        "iqn.2001-12.com.example:", "iqn.2001-01.com.example.sub-domain:a.b:c-d",
        "iqn.1998-03.com.example:für", "IQN.2001-04.COM.Example:X",
    ],
)  # fmt: skip
def test_name_002_iqn_names(name: str) -> None:
    """RFC 7143 4.2.7.4"""
    assert check_iscsi_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2001-4.com.example:x", "iqn.2001-13.com.example:x", "iqn.2001-00.com.example:x",
        "iqn.200104.com.example:x", "iqn.2001.04.com.example:x", "iqn.01-04.com.example:x",
        "iqn2001-04.com.example:x", "iqn.2001-04", "iqn.2001-04.", "iqn.2001-04.:x",
        "iqn-2001-04.com.example", "com.example:disk", "", "iqn.", "iqn.2001-04.com.example: x",
    ],
)  # fmt: skip
def test_name_002_what_is_no_iqn_name(name: str) -> None:
    with pytest.raises(InvalidName):
        check_iscsi_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "eui.02004567A425678D", "eui.02004567a425678d", "naa.52004567BA64678D",
        "naa.62004567BA64678D0123456789ABCDEF",
    ],
)  # fmt: skip
def test_name_003_eui_and_naa_names(name: str) -> None:
    """RFC 7143 4.2.7.5, 4.2.7.6: the upper case of its examples is taken, and folded in ours."""
    assert check_iscsi_name(name) == name
    assert prepare_name(name) == name.lower()


@pytest.mark.parametrize(
    "name",
    [
        "eui.02004567A425678", "eui.02004567A425678D0", "eui.02004567A425678G", "eui.",
        "naa.52004567BA64678", "naa.52004567BA64678D0", "naa.62004567BA64678D0123456789ABCDE",
        "naa.62004567BA64678D0123456789ABCDEG", "naa.", "eui02004567A425678D",
    ],
)  # fmt: skip
def test_name_003_wrong_lengths_and_digits(name: str) -> None:
    with pytest.raises(InvalidName):
        check_iscsi_name(name)
    with pytest.raises(InvalidName):
        prepare_name(name)


@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        ("IQN.2001-04.COM.Example:X", "iqn.2001-04.com.example:x"),
        ("\uff49\uff51\uff4e.2001-04.com.example:\uff58", "iqn.2001-04.com.example:x"),
        ("iqn.2001-04.com.example:stra\u00dfe", "iqn.2001-04.com.example:strasse"),
        ("iqn.2001-04.com.example:a\u00adb", "iqn.2001-04.com.example:ab"),
        ("iqn.2001-04.com.example:u\u0308", "iqn.2001-04.com.example:\u00fc"),
        ("iqn.2001-04.com.example:\u2460", "iqn.2001-04.com.example:1"),
    ],
)
def test_name_004_own_names_are_prepared(given: str, prepared: str) -> None:
    """RFC 3722 3 to 5: folded, normalised, then compared byte for byte."""
    assert prepare_name(given) == prepared
    assert prepare_name(prepared) == prepared


@pytest.mark.parametrize(
    "char",
    ["\u3002", " ", "_", "/", "@", "!", "\u00a0", "\u2028", "\ue000", "\U000e0001", "\u0378"],
)
def test_name_004_characters_that_no_own_name_has(char: str) -> None:
    """RFC 3722 6"""
    with pytest.raises(InvalidName):
        prepare_name(f"iqn.2001-04.com.example:a{char}b")


def test_name_004_directions_are_not_mixed() -> None:
    """RFC 3722 7"""
    with pytest.raises(InvalidName, match="right-to-left"):
        prepare_name("iqn.2001-04.com.example:\u05d0")


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["iqn.2004-04.com.QNAP:TS_1", "IQN.2001-04.com.example:\u00dcber"])
async def test_name_005_received_names_are_said_back_byte_for_byte(name: str) -> None:
    (found,) = parse_send_targets([("TargetName", name)], HERE)
    async with ScriptedTarget(name=name).running() as target:

        async def script() -> None:
            peer = await target.log_in()
            await peer.log_out()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(script)
            async with open_session([target.portal], found.name, initiator_name=INITIATOR):
                pass
        (first, *_) = target.connections[0].login_requests
    assert dict(decode_pairs(first.data))["TargetName"].encode() == name.encode()


def test_name_006_names_of_ports() -> None:
    """RFC 7143 4.4.2 SCSI Architecture Model"""
    isid = make_isid(b"\x12\x34\x56", 1)
    ours = initiator_port_name("iqn.2001-04.com.example:host", isid)
    assert ours == "iqn.2001-04.com.example:host,i,0x801234560001"
    theirs = target_port_name("iqn.2001-04.com.example:disk", 1)
    assert theirs == "iqn.2001-04.com.example:disk,t,0x0001"
    assert target_port_name("iqn.2001-04.com.example:disk", 0xFFFF).endswith(",t,0xffff")


@pytest.mark.parametrize(
    ("text", "portal", "written"),
    [
        ("10.0.0.1", Portal("10.0.0.1", 3260), "10.0.0.1:3260"),
        ("10.0.0.1:860", Portal("10.0.0.1", 860), "10.0.0.1:860"),
        ("[2001:db8::1]", Portal("2001:db8::1", 3260), "[2001:db8::1]:3260"),
        ("[2001:db8::1]:3261", Portal("2001:db8::1", 3261), "[2001:db8::1]:3261"),
        ("disk.example", Portal("disk.example", 3260), "disk.example:3260"),
    ],
)
def test_name_007_portals(text: str, portal: Portal, written: str) -> None:
    """RFC 7143 13.8 TargetAddress"""
    assert Portal.parse(text) == portal
    assert portal.address == written
    assert Portal.parse(written) == portal


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Let one name have these addresses, as a name server would say."""
    found = [
        (
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (host, port),
        )
        for host, port in addresses
    ]

    async def answer(*args: Any, **kw: Any) -> list[Any]:
        return found

    monkeypatch.setattr(anyio, "getaddrinfo", answer)


@pytest.mark.anyio
@pytest.mark.parametrize("dead", ["refuses", "swallows"])
async def test_name_007_a_name_with_a_dead_and_a_live_address(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.socket())
        first.bind(("127.0.0.1", 0))
        where = first.getsockname()
        if dead == "swallows":
            # A full queue of connections: what comes now is neither taken nor refused.
            first.listen(0)
            stack.enter_context(socket.socket()).connect(where)
        server = TargetServer([make_target()])
        async with server.running() as portal:
            resolving(monkeypatch, ("127.0.0.1", where[1]), ("127.0.0.1", portal.port))
            settings = Settings(connect_timeout=0.6)
            async with open_session(
                [Portal("disk.example", portal.port)],
                next(iter(server.targets)),
                initiator_name=INITIATOR,
                settings=settings,
            ) as session:
                assert await session.report_luns()
        resolving(monkeypatch, ("127.0.0.1", where[1]), ("127.0.0.1", where[1]))
        begin = anyio.current_time()
        with pytest.raises(ConnectError, match=r"disk\.example"):
            await connect(Portal("disk.example", 1), 0.2)
        assert anyio.current_time() - begin < 5


@pytest.mark.anyio
async def test_name_007_both_families() -> None:
    for host in ("127.0.0.1", "::1"):
        async with TargetServer([make_target()], host=host).running() as portal:
            assert portal.address.startswith("[::1]:" if host == "::1" else "127.0.0.1:")
            sock = await connect(portal, 5)
            sock.close()
