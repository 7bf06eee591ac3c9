# SPDX-License-Identifier: Apache-2.0
"""SLP messages, service URLs and attribute lists: golden bytes, and bytes that lie."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.discovery.slp import parse_target_url
from pyscsi_init.discovery.slp.messages import (
    AttributeReply,
    AttributeRequest,
    DaAdvert,
    ServiceReply,
    ServiceRequest,
    message_length,
    parse_reply,
)
from pyscsi_init.discovery.slp.urls import (
    TargetUrl,
    parse_agent_url,
    parse_attributes,
    portal_group_tag,
)
from pyscsi_init.errors import InvalidUrl, LocalProtocolError, ProtocolError
from pyscsi_init.names import Portal
from tests.pyscsi_init.discovery.slp import scripted
from tests.pyscsi_init.discovery.slp.scripted import OVERFLOW, entry, message, service_reply

IQN = "iqn.2001-04.com.example:disk"
URL = f"service:iscsi:target://192.0.2.1/{IQN}"


def test_a_service_request_is_these_bytes() -> None:
    request = ServiceRequest(service_type="service:iscsi:target", scopes=("a", "b"))
    data = request.encode(0x1234, ["192.0.2.1", "192.0.2.2"], multicast=True)
    body = b"\0\x13192.0.2.1,192.0.2.2\0\x14service:iscsi:target\0\x03a,b\0\0\0\0"
    head = b"\x02\x01" + (16 + len(body)).to_bytes(3, "big") + b"\x20\0" + bytes(3) + b"\x12\x34"
    assert data == head + b"\0\x02en" + body


def test_an_attribute_request() -> None:
    data = AttributeRequest(url=URL, tags=("portal-group",)).encode(7, [], multicast=False)
    asked = scripted.take(data)
    assert (asked.function, asked.flags, asked.xid, asked.language) == (6, 0, 7, "en")
    assert asked.fields == ["", URL, "DEFAULT", "portal-group", ""]


def test_a_text_that_does_not_fit() -> None:
    with pytest.raises(LocalProtocolError):
        ServiceRequest(service_type="x" * 70000).encode(1, [], multicast=False)


def test_replies() -> None:
    assert parse_reply(service_reply(9, URL, "service:x://y")) == ServiceReply(
        xid=9, urls=(URL, "service:x://y")
    )
    assert parse_reply(service_reply(9, URL, auths=2)) == ServiceReply(xid=9, urls=(URL,))
    assert parse_reply(service_reply(9, error=4)) == ServiceReply(xid=9, error=4)
    assert parse_reply(message(2, b"\0\x04", 9)) == ServiceReply(xid=9, error=4), "cut short"
    assert parse_reply(scripted.attribute_reply(9, "(a=b)")) == AttributeReply(
        xid=9, attributes="(a=b)"
    )
    assert parse_reply(scripted.advert(9, "192.0.2.3", "A, b")) == DaAdvert(
        xid=9, url="service:directory-agent://192.0.2.3", scopes=("A", "b"), boot_timestamp=1
    )
    german = message(2, struct.pack(">HH", 0, 1) + entry(URL), 9, language="de-AT")
    assert parse_reply(german) == ServiceReply(xid=9, urls=(URL,))
    assert parse_reply(ServiceRequest(service_type="x").encode(1, [], multicast=True)) is None


@pytest.mark.parametrize("cut", range(16, 60, 7))
def test_a_reply_that_did_not_fit(cut: int) -> None:
    whole = service_reply(9, URL, URL, flags=OVERFLOW)
    reply = parse_reply(whole[: max(cut, 20)])
    assert isinstance(reply, ServiceReply)
    assert reply.overflow
    assert set(reply.urls) <= {URL}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\x02",
        b"HTTP/1.1 400 Bad Request",
        message(2, b"\0\0\0\x01" + entry(URL), 9, version=1),
        service_reply(9, URL)[:-1],
        message(2, struct.pack(">HH", 0, 2) + entry(URL), 9),
        message(2, b"\0", 9),
        message(2, struct.pack(">HH", 0, 1) + bytes(3) + b"\0\x02\xff\xfe\0", 9),
        message(2, struct.pack(">HH", 0, 1) + entry(URL)[:-1] + b"\x01\0\x02\0\x01", 9),
        message(7, b"\0\0\xff\xff", 9),
        message(8, b"\0\0\0\0\0\x01", 9),
    ],
)
def test_a_reply_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_reply(data)


def test_the_length_of_a_message() -> None:
    assert message_length(service_reply(9, URL)) == len(service_reply(9, URL))
    for head in (b"\x01\x02\0\0\x20", b"\x02\x02\xff\xff\xff", b"\x02\x02\0\0\x05"):
        with pytest.raises(ProtocolError):
            message_length(head)


@given(st.binary(max_size=200), st.sampled_from([1, 2, 7, 8, 11]), st.sampled_from([0, OVERFLOW]))
def test_any_bytes_are_read_or_refused(data: bytes, function: int, flags: int) -> None:
    for each in (data, message(function, data, 1, flags=flags)):
        with contextlib.suppress(ProtocolError):
            parse_reply(each)


# -- URLs and attributes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, TargetUrl(Portal("192.0.2.1", 3260), IQN)),
        (
            f"service:iscsi:target://[1080::8:800:200c:417a]:5003/{IQN}",
            TargetUrl(Portal("1080::8:800:200c:417a", 5003), IQN),
        ),
        (
            f"service:iscsi:target://[2001:db8::1]/{IQN}",
            TargetUrl(Portal("2001:db8::1", 3260), IQN),
        ),
        (
            f"service:iscsi:target://disk.example:3261/{IQN}/iqn.2001-04.com.example:host",
            TargetUrl(Portal("disk.example", 3261), IQN, "iqn.2001-04.com.example:host"),
        ),
        (
            "SERVICE:iSCSI:Target://192.0.2.1/iqn.2004-04.com.QNAP:TS_1",
            TargetUrl(Portal("192.0.2.1"), "iqn.2004-04.com.QNAP:TS_1"),
        ),
        (
            rf"service:iscsi:target://192.0.2.1/{IQN}.f\c3\bcr%2Fall;x=y",
            TargetUrl(Portal("192.0.2.1"), f"{IQN}.für/all"),
        ),
        (
            rf"service:iscsi:target://192.0.2.1/{IQN}\ff",
            TargetUrl(Portal("192.0.2.1"), rf"{IQN}\ff"),
        ),
    ],
)
def test_urls_of_targets(url: str, expected: TargetUrl) -> None:
    assert parse_target_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", IQN, f"iscsi://192.0.2.1/{IQN}", f"service:iscsi:sms://192.0.2.1/{IQN}",
        "service:iscsi:target://192.0.2.1", "service:iscsi:target://192.0.2.1/",
        f"service:iscsi:target:///{IQN}", f"service:iscsi:target://192.0.2.1:x/{IQN}",
        f"service:iscsi:target://[::1/{IQN}", f"service:iscsi:target://192.0.2.1:3260,1/{IQN}",
    ],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_target_url(url)


def test_urls_of_directory_agents() -> None:
    assert parse_agent_url("service:directory-agent://192.0.2.3") == "192.0.2.3"
    assert parse_agent_url("service:directory-agent://192.0.2.3/;x=y") == "192.0.2.3"
    with pytest.raises(InvalidUrl):
        parse_agent_url(URL)


@given(st.text(max_size=60))
def test_any_url_is_read_or_refused(text: str) -> None:
    for url in (text, f"service:iscsi:target://{text}", f"service:iscsi:target://h/{text}"):
        with contextlib.suppress(InvalidUrl):
            assert parse_target_url(url).name
    portal_group_tag(text)


def test_attributes() -> None:
    text = r"(Portal-Group=7),(transports=tcp, sctp),KEYWORD,(alias=a\2cb\28c\29),(bad"
    assert parse_attributes(text) == {
        "portal-group": ("7",),
        "transports": ("tcp", "sctp"),
        "alias": ("a,b(c)",),
    }
    assert portal_group_tag(text) == 7
    for none in ("", "(portal-group=x)", "(portal-group=70000)", "(portal-group=)", "portal-group"):
        assert portal_group_tag(none) is None
