# SPDX-License-Identifier: Apache-2.0
"""Text of a peer that nobody has authenticated yet: pairs, values, negotiation, CHAP, discovery."""

from __future__ import annotations

import random
import struct

from fusefs.fuse import abi
from pyscsi_init.discovery.send_targets import parse_send_targets
from pyscsi_init.errors import (
    ConfigurationError,
    LocalProtocolError,
    LoginError,
    NegotiationFailed,
    ProtocolError,
    TargetAuthenticationFailed,
)
from pyscsi_init.login import text as codec
from pyscsi_init.login.chap import ChapInitiator
from pyscsi_init.login.keys import KEYS, check_full_feature_keys
from pyscsi_init.login.negotiation import Negotiation
from pyscsi_init.login.text_exchange import TextExchange, send_targets
from pyscsi_init.names import Portal, check_iscsi_name
from pyscsi_init.pdu import TextResponse
from pyscsi_init.secret import Chap, Secret
from pyscsi_init.testing.scripted.peer import ANSWERS
from pyscsi_init.url import parse_url
from tests.fuzz.target import FuzzTarget

CHAP = Chap(
    user="me", secret=Secret(b"0123456789abcdef"), mutual_secret=Secret(b"fedcba9876543210")
)
CHALLENGE = [("CHAP_A", "5"), ("CHAP_I", "7"), ("CHAP_C", "0x0123456789abcdef")]
PROOF = [("CHAP_N", "it"), ("CHAP_R", "0x0123456789abcdef0123456789abcdef")]
OPERATIONAL = codec.encode_pairs(ANSWERS.items())
FOUND = [
    ("TargetName", "iqn.2026-11.example:one"),
    ("TargetAddress", "192.0.2.1:3260,1"),
    ("TargetAddress", "[2001:db8::1]:3261,2"),
    ("TargetName", "iqn.2026-11.example:two"),
    ("TargetAddress", "example.org,65535"),
]


def pairs(data: bytes) -> None:
    """What was read is written as it was, but for empty pairs."""
    found = codec.decode_pairs(data)
    assert codec.decode_pairs(codec.encode_pairs(found)) == found


def values(data: bytes) -> None:
    text = data.decode("latin-1")
    for parse in (codec.parse_number, codec.parse_boolean, codec.parse_list):
        try:
            parse(text)
        except ProtocolError:
            continue
    assert len(codec.decode_binary(text, 64)) <= 64


def keys(data: bytes) -> None:
    """Each key's own idea of a value: the first byte says which key."""
    rows = list(KEYS.values())
    row = rows[data[0] % len(rows)] if data else rows[0]
    row.parse(data[1:].decode("latin-1"))


def negotiation(data: bytes) -> None:
    """A whole operational stage: every key of ours is offered before."""
    own = {name: value for name, value in ANSWERS.items() if KEYS[name].negotiated}
    session = Negotiation(own)
    for name in own:
        session.offer(name)
    for name, value in codec.decode_pairs(data):
        answer = session.receive(name, value)
        if answer is not None:
            codec.encode_pairs([answer])


def full_feature(data: bytes) -> None:
    check_full_feature_keys(codec.decode_pairs(data))


def chap(data: bytes) -> None:
    """Two answers of a target, and no secret in an error."""
    challenge, _, proof = data.partition(b"\0\0")
    choice = random.Random(1)
    exchange = ChapInitiator(CHAP, choice.randbytes)
    exchange.first_keys()
    try:
        for part in (challenge + b"\0", proof):
            codec.encode_pairs(exchange.receive(dict(codec.decode_pairs(part))))
    finally:
        exchange.forget()


def exchange(data: bytes) -> None:
    """Answers to SendTargets in several PDUs: each begins with its length and its flags."""
    asked = TextExchange(send_targets(), initiator_task_tag=1)
    while len(data) >= 2 and not asked.finished:
        asked.requests()
        length, flags = data[0], data[1]
        asked.receive(
            TextResponse(
                final=bool(flags & 0x80),
                continue_=bool(flags & 0x40),
                initiator_task_tag=1,
                target_transfer_tag=0xFFFFFFFF if flags & 0x80 else flags & 0x0F,
                data=data[2 : 2 + length],
            )
        )
        data = data[2 + length :]
    if asked.finished:
        parse_send_targets(asked.pairs, Portal("192.0.2.1", 3260))


def discovered(data: bytes) -> None:
    for target in parse_send_targets(codec.decode_pairs(data), Portal("192.0.2.1", 3260)):
        assert target.portals


def names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for parse in (check_iscsi_name, Portal.parse):
        try:
            parse(text)
        except ConfigurationError:
            continue
    url = parse_url(text)
    assert parse_url(str(url)) == url


def fuse(data: bytes) -> None:
    """What the kernel says; it is trusted, and yet nothing but a short message may fail."""
    message = memoryview(data)
    abi.decode_name(message)
    length, opcode, *_ = abi.IN_HEADER.unpack_from(message)
    assert length >= 0
    assert opcode >= 0
    request = abi.decode_init(message)
    assert request.flags < 1 << 64
    assert abi.InitReply.decode(data[: abi.INIT_REPLY_LENGTH].ljust(abi.INIT_REPLY_LENGTH, b"\0"))


LOGIN_ENDS = (ProtocolError, NegotiationFailed, TargetAuthenticationFailed, LoginError)
_EXCHANGE = codec.encode_pairs(FOUND)

TARGETS = [
    FuzzTarget("text pairs", pairs, [OPERATIONAL, _EXCHANGE], weight=3),
    FuzzTarget("text values", values, [
        b"0x0123456789abcdef", b"0bAAECAwQFBgc=", b"4294967295", b"Yes", b"CRC32C,None", b"1~5",
    ], weight=3),
    FuzzTarget("text keys", keys, [
        bytes([number]) + ANSWERS.get(name, "1").encode() for number, name in enumerate(KEYS)
    ], weight=2),
    FuzzTarget("negotiation", negotiation, [OPERATIONAL], LOGIN_ENDS, weight=2),
    FuzzTarget("full feature keys", full_feature, [OPERATIONAL, _EXCHANGE]),
    FuzzTarget(
        "chap", chap, [codec.encode_pairs(CHALLENGE) + b"\0" + codec.encode_pairs(PROOF)],
        LOGIN_ENDS, weight=3,
    ),
    FuzzTarget("text exchange", exchange, [
        bytes([len(_EXCHANGE), 0x80]) + _EXCHANGE,
        bytes([60, 0x41]) + _EXCHANGE[:60] + bytes([200, 0x80]) + _EXCHANGE[60:],
    ]),
    FuzzTarget("send targets", discovered, [_EXCHANGE]),
    FuzzTarget("names and urls", names, [
        b"iscsi://me@[2001:db8::1]:3260,host/iqn.2026-11.example:disk/1", b"192.0.2.1:3260,1",
        b"iqn.2026-11.example:disk", b"naa.60014051234567890123456789012345",
        b"iscsi://host/eui.0123456789abcdef/5",
    ], (ConfigurationError, LocalProtocolError)),
    FuzzTarget("fuse abi", fuse, [
        abi.IN_HEADER.pack(104, 26, 1, 1, 0, 0, 1, 0, 0)
        + struct.pack("=IIII", 7, 39, 1 << 17, 1 << 30) + bytes(48),
        abi.IN_HEADER.pack(44, 1, 1, 1, 0, 0, 1, 0, 0) + b"lun\0" + bytes(30),
    ], (struct.error,)),
]  # fmt: skip
