# SPDX-License-Identifier: Apache-2.0
"""iSNSP PDUs and attributes: golden bytes, messages over several PDUs, and bytes that lie."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.discovery.isns.attributes import (
    Attribute,
    Tag,
    address,
    decode_attributes,
    encode_attributes,
    text,
)
from pyscsi_init.discovery.isns.messages import Response, parse_targets, query_targets
from pyscsi_init.discovery.isns.pdu import Flags, Function, Message, MessageReader
from pyscsi_init.errors import LocalProtocolError, ProtocolError
from tests.pyscsi_init.discovery.isns import scripted
from tests.pyscsi_init.discovery.isns.scripted import FIRST, LAST, SERVER, pdu

RESPONSE = 0x8002


def test_a_query_is_these_bytes() -> None:
    (data,) = query_targets("iqn.a:b").message(0x1234).encode()
    header = bytes.fromhex("0001 0002 006c 8c00 1234 0000".replace(" ", ""))
    name = bytes.fromhex("00000020 00000008".replace(" ", "")) + b"iqn.a:b\0"
    key = bytes.fromhex("00000021 00000004 00000001".replace(" ", ""))
    wanted = b"".join(struct.pack(">II", tag, 0) for tag in (32, 33, 34, 16, 17, 48, 49, 50, 51))
    assert data == header + name + key + bytes(8) + wanted


@pytest.mark.parametrize(
    ("value", "length"), [("a", 4), ("abc", 4), ("abcd", 8), ("iqn." + "x" * 219, 224)]
)
def test_text_has_a_nul_and_is_aligned(value: str, length: int) -> None:
    attribute = text(Tag.ISCSI_NAME, value)
    assert len(attribute.value) == length
    assert attribute.value.rstrip(b"\0") == value.encode()
    assert attribute.text == value


@pytest.mark.parametrize("value", [b"abc\0", b"abc", b"abc\0\0\0\0\0", b"abc\0xyz\0"])
def test_text_is_read_whatever_its_padding(value: bytes) -> None:
    assert Attribute(Tag.ISCSI_NAME, value).text == "abc"


def test_addresses() -> None:
    assert address(16, "192.0.2.7").value == scripted.ip("192.0.2.7")
    assert Attribute(16, scripted.ip("192.0.2.7")).address == "192.0.2.7"
    assert Attribute(16, scripted.ip("192.0.2.7", compatible=True)).address == "192.0.2.7"
    assert Attribute(16, address(16, "2001:db8::7").value).address == "2001:db8::7"
    assert Attribute(16, address(16, "fe80::1%eth0").value).address == "fe80::1"
    assert Attribute(16, bytes(15) + b"\x01").address == "::1"


@pytest.mark.parametrize("value", [b"", b"\0\0\0", bytes(8)])
def test_numbers_and_addresses_of_another_length(value: bytes) -> None:
    for read in ("number", "address"):
        with pytest.raises(ProtocolError, match=f"{len(value)} bytes"):
            getattr(Attribute(17, value), read)


def test_text_that_cannot_be_sent() -> None:
    with pytest.raises(LocalProtocolError):
        text(Tag.ISCSI_NAME, "x" * 256)
    with pytest.raises(LocalProtocolError):
        text(Tag.ISCSI_NAME, "a\0b")
    with pytest.raises(LocalProtocolError, match="aligned"):
        Message(function_id=1, transaction_id=1, payload=b"abc").encode()


messages = st.builds(
    Message,
    function_id=st.sampled_from([1, 2, 0x8002, 8]),
    transaction_id=st.integers(0, 0xFFFF),
    payload=st.binary(max_size=64).map(lambda data: data + bytes(-len(data) % 4)),
    flags=st.sampled_from([Flags.CLIENT, Flags.SERVER, Flags.CLIENT | Flags.REPLACE]),
)


@given(st.lists(messages, max_size=5), st.integers(1, 8).map(lambda n: n * 4), st.integers(1, 40))
def test_messages_come_back_however_they_are_cut(sent: list[Message], size: int, step: int) -> None:
    stream = b"".join(b"".join(each.encode(size)) for each in sent)
    reader = MessageReader()
    found = []
    for at in range(0, len(stream), step):
        found += reader.feed(stream[at : at + step])
    assert found == sent


def test_messages_of_two_transactions_may_be_mixed() -> None:
    one = scripted.in_parts(RESPONSE, bytes(8), 1, 4)
    two = scripted.in_parts(RESPONSE, b"abcdefgh", 2, 4)
    found = MessageReader().feed(one[0] + two[0] + two[1] + one[1])
    assert [(each.transaction_id, each.payload) for each in found] == [
        (2, b"abcdefgh"),
        (1, bytes(8)),
    ]


def test_an_authentication_block_is_skipped() -> None:
    block = struct.pack(">II", 2, 24) + bytes(16)
    signed = pdu(RESPONSE, bytes(4), flags=SERVER | FIRST | LAST | 0x2000) + block
    plain = pdu(RESPONSE, b"abcd", transaction=2)
    for step in (1, 7, 1000):
        reader = MessageReader()
        stream = signed + plain
        found = [
            each
            for at in range(0, len(stream), step)
            for each in reader.feed(stream[at : at + step])
        ]
        assert [each.payload for each in found] == [bytes(4), b"abcd"]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (pdu(RESPONSE, bytes(4), version=2), "version 2"),
        (b"HTTP/1.1 400 Bad Request", "version"),
        (pdu(RESPONSE, b"abc"), "multiple of 4"),
        (pdu(RESPONSE, bytes(4), flags=SERVER | LAST), "first"),
        (pdu(RESPONSE, bytes(4), flags=SERVER | FIRST | LAST, sequence=1), "sequence id 1"),
        (
            pdu(RESPONSE, bytes(4), flags=SERVER | FIRST)
            + pdu(RESPONSE, bytes(4), flags=SERVER | LAST, sequence=2),
            "sequence id 2 instead of 1",
        ),
        (pdu(RESPONSE, flags=SERVER | FIRST | LAST | 0x2000) + struct.pack(">II", 2, 4), "block"),
    ],
)
def test_a_stream_that_is_no_isns(stream: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        MessageReader().feed(stream)


def test_what_has_begun_is_bounded() -> None:
    long = [
        pdu(RESPONSE, bytes(512), flags=SERVER | FIRST * (number == 0), sequence=number)
        for number in range(100)
    ]
    many = [
        pdu(RESPONSE, transaction=transaction, flags=SERVER | FIRST) for transaction in range(100)
    ]
    for parts in (long, many):
        with pytest.raises(ProtocolError, match="4096"):
            MessageReader(max_message=4096).feed(b"".join(parts))
        assert MessageReader().feed(b"".join(parts)) == []


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack(">II", 32, 8) + b"abc\0",
        struct.pack(">II", 32, 0xFFFFFFFC),
        struct.pack(">II", 32, 3) + b"ab\0",
        b"\0\0\0",
    ],
)
def test_attributes_whose_length_lies(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_attributes(payload)


@given(st.lists(st.tuples(st.sampled_from(Tag), st.binary(max_size=9)), max_size=6))
def test_attributes_come_back(pairs: list[tuple[Tag, bytes]]) -> None:
    sent = [Attribute(tag, value + bytes(-len(value) % 4)) for tag, value in pairs]
    assert decode_attributes(encode_attributes(sent)) == sent


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for stream in (data, pdu(RESPONSE, data + bytes(-len(data) % 4))):
        with contextlib.suppress(ProtocolError):
            for message in MessageReader().feed(stream):
                parse_targets(Response.parse(message).attributes)
        with contextlib.suppress(ProtocolError):
            MessageReader().datagram(stream)


def test_a_datagram_carries_one_pdu() -> None:
    reader = MessageReader()
    one = pdu(Function.SCN, b"abcd")
    assert reader.datagram(one) is not None
    for wrong in (one + one, one[:-1], b""):
        with pytest.raises(ProtocolError):
            reader.datagram(wrong)
    first, last = scripted.in_parts(Function.SCN, b"abcdefgh", 9, 4)
    assert reader.datagram(first) is None
    message = reader.datagram(last)
    assert message is not None
    assert message.payload == b"abcdefgh"
