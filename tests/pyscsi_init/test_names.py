# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 4.2.7 names, RFC 3722 preparation, 11.12.5 ISIDs, 13.8 portals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import InvalidName, InvalidUrl
from pyscsi_init.names import (
    Portal,
    check_iscsi_name,
    initiator_port_name,
    isid_text,
    make_isid,
    prepare_name,
    target_port_name,
)

# -- names -----------------------------------------------------------------------------------------

GOOD = [
    "iqn.2001-04.com.example",
    "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
    "iqn.2001-04.com.example:storage.tape1.sys1.xyz",
    "iqn.2001-04.com.example:",
    "iqn.1992-01.com.a-b:1",
    "iqn.2001-12.com.example:x",
    "eui.02004567A425678D",
    "eui.02004567a425678d",
    "naa.52004567BA64678D",
    "naa.62004567BA64678D0123456789ABCDEF",
]

BAD = [
    "",
    "iqn",
    "iqn.",
    "iqn.2001-4.com.example:x",
    "iqn.2001-13.com.example:x",
    "iqn.2001-00.com.example:x",
    "iqn.01-04.com.example:x",
    "iqn.200104.com.example:x",
    "iqn.2001-04com.example:x",
    "iqn.2001-04",
    "iqn.2001-04.",
    "iqn.2001-04.:x",
    "iqn.2001-04..com:x",
    "iqn.\u0662001-04.com.example",
    "iqn.2001-04.com.example:with space",
    "iqn.2001-04.com.example:with\ttab",
    "iqn.2001-04.com.example:\0",
    "iqn.2001-04.com.example:x\n",
    "iqn.2001-04.com.example:\udc80",
    " iqn.2001-04.com.example",
    "eui.02004567A425678",
    "eui.02004567A425678D0",
    "eui.02004567A425678G",
    "naa.52004567BA64678",
    "naa.52004567BA64678D0",
    "naa.62004567BA64678D0123456789ABCDEF0",
    "xyz.2001-04.com.example",
    "com.example",
]


@pytest.mark.parametrize("name", GOOD)
def test_good_names_stay_as_they_are(name: str) -> None:
    assert check_iscsi_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidName):
        check_iscsi_name(name)


@pytest.mark.parametrize(
    "name", ["iqn.2004-04.com.QNAP:TS_1", "IQN.2001-04.COM.EXAMPLE:X", "iqn.2001-04.com.x:a/b"]
)
def test_names_of_targets_are_taken_verbatim(name: str) -> None:
    """RFC 7143 6.1: values are case-sensitive, also those that RFC 3722 would have folded."""
    assert check_iscsi_name(name) == name


@pytest.mark.parametrize(("char", "size"), [("a", 1), ("\u00fc", 2), ("\u4e2d", 3)])
def test_at_most_223_bytes(char: str, size: int) -> None:
    """RFC 7143 4.2.7.2: the limit is in bytes of UTF-8, not in characters."""
    start = "iqn.2001-04.com.example:"
    room = 223 - len(start)
    longest = start + char * (room // size) + "x" * (room % size)
    assert len(longest.encode()) == 223
    assert check_iscsi_name(longest) == longest
    with pytest.raises(InvalidName, match="223"):
        check_iscsi_name(longest + "x")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("IQN.2001-04.COM.Example:X", "iqn.2001-04.com.example:x"),
        ("EUI.02004567A425678D", "eui.02004567a425678d"),
        ("\uff49\uff51\uff4e.2001-04.com.example:\uff21", "iqn.2001-04.com.example:a"),
        ("iqn.2001-04.com.example:stra\u00dfe", "iqn.2001-04.com.example:strasse"),
        ("iqn.2001-04.com.example:\u00c9t\u00e9", "iqn.2001-04.com.example:\u00e9t\u00e9"),
        ("iqn.2001-04.com.example:e\u0301", "iqn.2001-04.com.example:\u00e9"),
        ("iqn.2001-04.com.ex\u00adample", "iqn.2001-04.com.example"),
        ("iqn.2001-04.com.example:\u200bx", "iqn.2001-04.com.example:x"),
    ],
)
def test_preparation(text: str, name: str) -> None:
    """RFC 3722 3 and 4: tables B.1 and B.2, then NFKC."""
    assert prepare_name(text) == name
    assert prepare_name(name) == name


@pytest.mark.parametrize(
    "char",
    [
        *"_/ !\"#$%&'()*+,;<=>?@[\\]^`{|}~\x00\x1f\x7f",
        "\u3002",
        "\uff61",
        "\u00a0",
        "\u2003",
        "\u0085",
        "\ue000",
        "\ufdd0",
        "\ufffd",
        "\u2ff0",
        "\u202e",
        "\U000e0001",
        "\u0221",
    ],
)
def test_characters_that_no_name_may_have(char: str) -> None:
    """RFC 3722 6: the C tables, ASCII but for letters, digits, dash, dot and colon, and U+3002."""
    with pytest.raises(InvalidName, match="does not allow"):
        prepare_name(f"iqn.2001-04.com.example:a{char}b")


def test_directions_do_not_mix() -> None:
    """RFC 3454 6: an iqn. name starts with Latin letters, so it can hold no right-to-left ones."""
    with pytest.raises(InvalidName, match="right-to-left"):
        prepare_name("iqn.2001-04.com.example:\u05d0\u05d1")


def test_preparation_still_checks_the_form() -> None:
    with pytest.raises(InvalidName, match="starts with none"):
        prepare_name("com.example")


@given(st.text(max_size=40) | st.text(max_size=20).map("iqn.2001-04.com.example:".__add__))
def test_any_text_is_a_name_or_invalid(text: str) -> None:
    try:
        name = prepare_name(text)
    except InvalidName:
        return
    assert prepare_name(name) == name
    assert check_iscsi_name(name) == name


# -- ISID and port names ---------------------------------------------------------------------------


def test_isid() -> None:
    """RFC 7143 11.12.5: T = 10b, A reserved, B and C random, D the qualifier."""
    isid = make_isid(b"\xa1\xb2\xc3", 0x0405)
    assert isid == bytes.fromhex("80a1b2c30405")
    assert make_isid(b"\0\0\0") == bytes.fromhex("800000000000")
    assert isid_text(isid) == "80a1b2c30405"


@pytest.mark.parametrize(("random3", "qualifier"), [(b"ab", 0), (b"abcd", 0), (b"abc", 65536)])
def test_isid_that_does_not_fit(random3: bytes, qualifier: int) -> None:
    with pytest.raises(InvalidName):
        make_isid(random3, qualifier)


def test_port_names() -> None:
    """RFC 7143 4.4.2."""
    isid = bytes.fromhex("80a1b2c30001")
    assert initiator_port_name("iqn.2001-04.com.example:i", isid) == (
        "iqn.2001-04.com.example:i,i,0x80a1b2c30001"
    )
    assert target_port_name("iqn.2001-04.com.example:t", 10) == "iqn.2001-04.com.example:t,t,0x000a"


# -- portals ---------------------------------------------------------------------------------------

V6 = "1080::8:800:200C:417A"


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("10.0.0.1", Portal("10.0.0.1")),
        ("10.0.0.1,1", Portal("10.0.0.1", 3260, 1)),
        ("10.0.0.1:5003", Portal("10.0.0.1", 5003)),
        ("10.0.0.1:5003,1", Portal("10.0.0.1", 5003, 1)),
        (f"[{V6}]", Portal(V6)),
        (f"[{V6}],65", Portal(V6, 3260, 65)),
        (f"[{V6}]:5003", Portal(V6, 5003)),
        (f"[{V6}]:5003,1", Portal(V6, 5003, 1)),
        ("computingcenter.example.com", Portal("computingcenter.example.com")),
        ("computingcenter.example.com,23", Portal("computingcenter.example.com", 3260, 23)),
        ("host.example:860", Portal("host.example", 860)),
        ("host.example:860,0", Portal("host.example", 860, 0)),
        ("host.example,0x10", Portal("host.example", 3260, 16)),
        ("host.example,0XfFfF", Portal("host.example", 3260, 65535)),
        (f"{V6},2", Portal(V6, 3260, 2)),
        ("[fe80::1%eth0]:3261,1", Portal("fe80::1%eth0", 3261, 1)),
        ("[::ffff:10.0.0.1]", Portal("::ffff:10.0.0.1")),
        (" node_1 ", Portal("node_1")),
    ],
)
def test_portals(text: str, portal: Portal) -> None:
    """RFC 7143 13.8, with the tag and without, whether it MUST be there or not."""
    assert Portal.parse(text) == portal
    assert Portal.parse(str(portal)) == portal


def test_portal_text() -> None:
    assert str(Portal("10.0.0.1")) == "10.0.0.1:3260"
    assert str(Portal("::1", 3261, 7)) == "[::1]:3261,7"
    assert Portal("::1", 3261, 7).address == "[::1]:3261"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",1",
        ":3260",
        "host:",
        "host:0",
        "host:65536",
        "host:99999999999999",
        "host:http",
        "host:-1",
        "host:+1",
        "host:\u0661",
        "host,",
        "host,65536",
        "host,x",
        "host,1,2",
        "host:1:2",
        "[::1",
        "[::1]3260",
        "[::1]:",
        "[host]",
        "[10.0.0.1]",
        "[::g]",
        "[fe80::1%]",
        "[fe80::1%eth 0]",
        "[fe80::1%a/b]",
        "::1]",
        "ho st",
        "user@host",
        "host/x",
        "ho\0st",
        "10.0.0.300",
        "10.0.0",
        "1",
        "a" * 254,
    ],
)
def test_bad_portals(text: str) -> None:
    with pytest.raises(InvalidUrl):
        Portal.parse(text)


@given(st.text(max_size=40) | st.text("0123456789abc[]:,.%x", max_size=30))
def test_any_text_is_a_portal_or_invalid(text: str) -> None:
    try:
        portal = Portal.parse(text)
    except InvalidUrl:
        return
    assert Portal.parse(str(portal)) == portal
