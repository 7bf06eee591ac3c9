# SPDX-License-Identifier: Apache-2.0
"""What name servers and agents send: iSNS (RFC 4171) and SLP (RFC 2608, RFC 4018)."""

from __future__ import annotations

from pyscsi_init.discovery.isns.attributes import decode_attributes
from pyscsi_init.discovery.isns.messages import Response, parse_scn, parse_targets
from pyscsi_init.discovery.isns.pdu import MessageReader
from pyscsi_init.discovery.slp.messages import parse_reply
from pyscsi_init.discovery.slp.urls import parse_attributes, parse_target_url
from pyscsi_init.errors import InvalidUrl, ProtocolError
from tests.fuzz.target import FuzzTarget


def isns(data: bytes) -> None:
    """A stream; each message of it as a response and as a notification."""
    for message in MessageReader().feed(data):
        for parse in (Response.parse, parse_scn):
            try:
                parse(message)
            except ProtocolError:
                continue


def isns_attributes(data: bytes) -> None:
    parse_targets(decode_attributes(data))


def slp(data: bytes) -> None:
    parse_reply(data)


def slp_texts(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    parse_attributes(text)
    parse_target_url(text)


def _isns(function: int, payload: bytes) -> bytes:
    # version, function, length, flags (server, last, first), transaction, sequence
    return (
        b"\0\1"
        + function.to_bytes(2, "big")
        + len(payload).to_bytes(2, "big")
        + b"\x4c\0\0\1\0\0"
        + payload
    )


def _attribute(tag: int, value: bytes) -> bytes:
    return tag.to_bytes(4, "big") + len(value).to_bytes(4, "big") + value


_NAME = b"iqn.2026-11.example:one".ljust(24, b"\0")
_FOUND = (
    _attribute(32, _NAME)
    + _attribute(33, b"\0\0\0\1")
    + _attribute(49, _NAME)
    + _attribute(48, b"\0\0\0\1")
    + _attribute(16, bytes(10) + b"\xff\xff\xc0\0\2\1")
    + _attribute(17, b"\0\0\x0c\xbc")
)
_URL = b"service:iscsi:target://192.0.2.1:3260/iqn.2026-11.example:one"
_REPLY = b"\0\0\0\1\0\xff\xff\0" + len(_URL).to_bytes(2, "big") + _URL + b"\0"

TARGETS = [
    FuzzTarget("isns stream", isns, [
        _isns(0x8002, b"\0\0\0\0" + _FOUND), _isns(8, _attribute(32, _NAME) + _FOUND),
    ], weight=2),
    FuzzTarget("isns attributes", isns_attributes, [_FOUND], weight=2),
    FuzzTarget("slp reply", slp, [
        b"\2\2\0\0" + bytes([16 + len(_REPLY)]) + b"\0\0\0\0\0\0\7\0\2en" + _REPLY,
    ], weight=2),
    FuzzTarget(
        "slp texts", slp_texts, [_URL, b"(portal-group=1),(iscsi-name=a\\2cb)"],
        (InvalidUrl, ProtocolError),
    ),
]  # fmt: skip
