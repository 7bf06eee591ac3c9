# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 6.1 Text Format."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.login.text import (
    TextAssembler,
    decode_binary,
    decode_pairs,
    encode_base64,
    encode_hex,
    encode_pairs,
    format_list,
    parse_boolean,
    parse_list,
    parse_number,
    split_text,
)

KEY = st.from_regex(r"[A-Za-z][A-Za-z0-9.\-+@_#]{0,62}", fullmatch=True)
VALUE = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


@given(st.lists(st.tuples(KEY, VALUE)))
def test_login_016_pairs_come_back_as_they_went(pairs: list[tuple[str, str]]) -> None:
    data = encode_pairs(pairs)
    assert decode_pairs(data) == pairs
    assert decode_pairs(memoryview(data)) == pairs
    assert not data or data.endswith(b"\0")


@given(st.binary(max_size=300))
def test_login_016_any_bytes_raise_only_protocol_errors(data: bytes) -> None:
    for raw in (data, data + b"\0", b"K=" + data + b"\0"):
        try:
            pairs = decode_pairs(raw)
        except ProtocolError:
            continue
        assert all(0 < len(key) <= 63 and "\0" not in value for key, value in pairs)


@pytest.mark.parametrize(
    ("data", "pairs"),
    [
        (b"", []),
        (b"\0\0", []),
        (b"A=b\0", [("A", "b")]),
        (b"A=\0", [("A", "")]),
        (b"A=b=c\0", [("A", "b=c")]),
        (b"A=b\0\0\0C=d\0", [("A", "b"), ("C", "d")]),
        (b"A=1\0A=2\0", [("A", "1"), ("A", "2")]),
        ("TargetAlias=Gerät\0".encode(), [("TargetAlias", "Gerät")]),
        (b"iSCSIProtocolLevel=1\0", [("iSCSIProtocolLevel", "1")]),
        (b"X#NodeArchitecture=a\0", [("X#NodeArchitecture", "a")]),
        (b"K" * 63 + b"=1\0", [("K" * 63, "1")]),
    ],
)
def test_login_016_key_ends_at_the_first_equal_sign(
    data: bytes, pairs: list[tuple[str, str]]
) -> None:
    assert decode_pairs(data) == pairs


@pytest.mark.parametrize(
    "data",
    [
        b"A=b",
        b"A=b\0C=d",
        b"A\0",
        b"=b\0",
        b"K" * 64 + b"=1\0",
        b"1A=b\0",
        b"A b=c\0",
        b"A\n=c\0",
        b"\xc3\x84=c\0",
        b"A=\xff\0",
        b"A=b\0\xff",
    ],
)
def test_login_016_malformed_text(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_pairs(data)


@pytest.mark.parametrize(
    "pair", [("A", "b\0c"), ("", "b"), ("A=", "b"), ("K" * 64, ""), ("A", "\ud800")]
)
def test_we_never_send_what_the_format_cannot_carry(pair: tuple[str, str]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_pairs([pair])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("7", 7),
        ("0x7f", 127),
        ("0X7F", 127),
        ("0x0001", 1),
        ("18446744073709551615", 2**64 - 1),
        ("0x" + "f" * 16, 2**64 - 1),
    ],
)
def test_neg_009_numbers(text: str, value: int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "01",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1_0",
        "abc",
        "0x",
        "0xg",
        "1~2",
        "18446744073709551616",
        *("0x1" + "0" * 16, "٣", "1e3", "0b1", "9" * 5000),
    ],
)
def test_neg_009_no_numbers(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_number(text)


@pytest.mark.parametrize("text", ["yes", "YES", "True", "1", "", "Yes ", "no"])
def test_neg_009_no_booleans(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_boolean(text)


def test_lists() -> None:
    assert parse_list("CRC32C,None") == ("CRC32C", "None")
    assert format_list(("a", "b")) == "a,b"
    for text in ("", ",", "a,", ",a", "a,,b"):
        with pytest.raises(ProtocolError):
            parse_list(text)


@given(st.binary(min_size=1, max_size=1024))
def test_sec_007_binary_values_in_every_encoding(value: bytes) -> None:
    plain = value.hex()
    for text in (
        encode_hex(value),
        encode_base64(value),
        "0X" + plain.upper(),
        "0B" + base64.b64encode(value).decode(),
    ):
        assert decode_binary(text, 1024) == value
    if plain[0] == "0":
        assert decode_binary("0x" + plain[1:], 1024) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0b",
        "0xgg",
        "0x 1",
        "1234",
        "deadbeef",
        "0b=",
        "0bA",
        "0bAA=",
        "0bAA===",
        "0bA@==",
        "0bAAA",
        *("0bAAAA=", "0bÄÄÄÄ", "0x٣٣", "0x_1", "x00", "00"),
    ],
)
def test_sec_007_malformed_binary_values(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_binary(text, 1024)
    assert len(text) < 4 or text[2:] not in str(caught.value)


def test_sec_006_length_of_a_binary_value() -> None:
    for length in (1, 16, 255, 256, 1024):
        assert len(decode_binary(encode_hex(bytes(length)), 1024)) == length
        assert len(decode_binary(encode_base64(bytes(length)), 1024)) == length
    for length in (1025, 1026, 1027, 1028, 5000):
        for text in (encode_hex(bytes(length)), encode_base64(bytes(length))):
            with pytest.raises(ProtocolError):
                decode_binary(text, 1024)


@given(st.text(max_size=60), st.sampled_from(["", "0x", "0b"]))
def test_sec_007_any_text_raises_only_protocol_errors(text: str, prefix: str) -> None:
    for parse in (lambda value: decode_binary(value, 16), parse_number, parse_boolean, parse_list):
        try:
            parse(prefix + text)
        except ProtocolError:
            continue


@given(st.binary(max_size=400), st.integers(1, 50))
def test_login_013_a_split_text_is_joined_again(data: bytes, size: int) -> None:
    parts = split_text(data, size)
    assert all(len(part) <= size for part in parts)
    assert len(parts) == max(1, -(-len(data) // size))
    assembler = TextAssembler(400)
    for part in parts[:-1]:
        assert assembler.feed(part, more=True) is None
    assert assembler.feed(parts[-1], more=False) == data
    assert len(assembler) == 0


def test_login_015_the_assembler_has_a_bound() -> None:
    assembler = TextAssembler(100)
    assert assembler.feed(bytes(60), more=True) is None
    with pytest.raises(ProtocolError):
        assembler.feed(bytes(41), more=False)
