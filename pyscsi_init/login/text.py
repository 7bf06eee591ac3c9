# SPDX-License-Identifier: Apache-2.0
"""The text of Login and Text PDUs: ``key=value`` pairs, constants, and the parts of a long text.

RFC 7143 6.1 is the whole of it: pairs in UTF-8, each ended by one NUL; booleans, numbers, lists;
hex and base64 constants for binary values; and the C bit, which lets a pair be split anywhere
between PDUs. It is apart from the key registry, because both sides of the wire speak it, and
because it is the first code that touches bytes of a peer that nobody has authenticated.

It does not know which keys exist or what they mean. Values are never repeated in an error text
without being cut short, and binary values not at all: one of them is CHAP_R.

INVARIANT: bytes from the peer raise ProtocolError and nothing else (tests: test_text.py,
hypothesis).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from ..errors import LocalProtocolError, ProtocolError

Pair = tuple[str, str]

REJECT = "Reject"
IRRELEVANT = "Irrelevant"
NOT_UNDERSTOOD = "NotUnderstood"
RESERVED_ANSWERS = frozenset((REJECT, IRRELEVANT, NOT_UNDERSTOOD))
"""Legal as answers, never as proposals (RFC 7143 6.2)."""

MAX_KEY_LENGTH = 63
"""A standard-label has no more characters (RFC 7143 6.1)."""

LOGIN_DATA_SEGMENT_LENGTH = 8192
"""The default MaxRecvDataSegmentLength, in force for both sides during login (RFC 7143 6.3)."""

LOGIN_TEXT_LIMIT = 65536
"""Most bytes taken in one text of the login phase: RFC 7143 6.1 asks for 8192, and for 64 KiB
where an authentication method has long items. More than that is a peer that does not mean to
end."""

_LABEL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-+@_#")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_DECIMAL_DIGITS = frozenset("0123456789")


def shorten(value: str) -> str:
    """``value`` as it may stand in an error text: printable, and no longer than a line."""
    text = ascii(value)
    return text if len(text) <= 72 else text[:69] + "..."


def encode_pairs(pairs: Iterable[Pair]) -> bytes:
    """The data segment for ``pairs``, every pair ended by a NUL.

    Raises:
        LocalProtocolError: a key or value that the format cannot carry.
    """
    out = bytearray()
    for key, value in pairs:
        if not _is_key(key):
            raise LocalProtocolError(f"{shorten(key)} is no key name (RFC 7143 6.1)")
        try:
            encoded = value.encode("utf-8")
        except UnicodeEncodeError:
            encoded = b"\0"
        if 0 in encoded:
            raise LocalProtocolError(f"the value of {key} cannot be sent as text (RFC 7143 6.1)")
        out += key.encode("ascii") + b"=" + encoded + b"\0"
    return bytes(out)


def decode_pairs(data: bytes | bytearray | memoryview) -> list[Pair]:
    """The pairs of one whole text, in order, duplicates kept.

    Empty pairs (NUL upon NUL) are passed over: they are what a peer makes that counts the padding
    of the data segment in its length.

    Raises:
        ProtocolError: no NUL at the end, a pair without ``=``, a key that is no label, or no UTF-8.
    """
    raw = bytes(data)
    if not raw:
        return []
    # RFC 7143 6.1: every pair, "including the last or only pair", is followed by one null.
    if raw[-1] != 0:
        raise ProtocolError("the last key=value pair of a text has no NUL behind it (RFC 7143 6.1)")
    pairs: list[Pair] = []
    for item in raw.split(b"\0"):
        if not item:
            continue
        try:
            text = item.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a key=value pair is not UTF-8 (RFC 7143 6.1)") from None
        key, separator, value = text.partition("=")
        if not separator:
            raise ProtocolError(
                f"a text holds {shorten(text[:MAX_KEY_LENGTH])} without '=' (RFC 7143 6.1)"
            )
        if not _is_key(key):
            raise ProtocolError(f"{shorten(key)} is no key name (RFC 7143 6.1)")
        pairs.append((key, value))
    return pairs


def _is_key(key: str) -> bool:
    # RFC 7143 6.1 wants a capital first, and then defines iSCSIProtocolLevel: any letter will do.
    return (
        0 < len(key) <= MAX_KEY_LENGTH
        and key[0].isascii()
        and key[0].isalpha()
        and set(key) <= _LABEL
    )


def encode_hex(value: bytes) -> str:
    """A hex-constant (RFC 7143 6.1)."""
    return "0x" + value.hex()


def encode_base64(value: bytes) -> str:
    """A base64-constant (RFC 7143 6.1)."""
    return "0b" + base64.b64encode(value).decode("ascii")


def decode_binary(text: str, max_length: int) -> bytes:
    """The bytes of a hex- or base64-constant of 1 to ``max_length`` bytes.

    An odd number of hex digits is legal: n digits are (n + 1) // 2 bytes (RFC 7143 6.1). A decimal
    constant has no implicit length and is refused.

    Raises:
        ProtocolError: no such constant. The text of the error never holds the value.
    """
    prefix, digits = text[:2], text[2:]
    if prefix in ("0x", "0X"):
        if not digits or not set(digits) <= _HEX_DIGITS:
            raise ProtocolError("a hex-constant has no digits or wrong ones (RFC 7143 6.1)")
        if len(digits) > 2 * max_length:
            raise ProtocolError(f"a binary value is longer than {max_length} bytes")
        return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
    if prefix in ("0b", "0B"):
        if len(digits) > 4 * (max_length // 3 + 1):
            raise ProtocolError(f"a binary value is longer than {max_length} bytes")
        try:
            value: bytes | None = base64.b64decode(digits.encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            value = None
        # The decoder lets padding pass that nothing needs.
        if value is None or len(digits) % 4:
            raise ProtocolError("a base64-constant is malformed (RFC 7143 6.1)")
        if not 1 <= len(value) <= max_length:
            raise ProtocolError(f"a binary value is empty or longer than {max_length} bytes")
        return value
    raise ProtocolError("a binary value is no hex- or base64-constant (RFC 7143 6.1)")


def parse_number(text: str) -> int:
    """A numerical-value: decimal without leading zeros, or hex; below 2**64 (RFC 7143 6.1).

    Raises:
        ProtocolError: anything else.
    """
    if text[:2] in ("0x", "0X"):
        digits = text[2:]
        if digits and set(digits) <= _HEX_DIGITS and len(digits.lstrip("0")) <= 16:
            return int(digits, 16)
    elif (
        text
        and set(text) <= _DECIMAL_DIGITS
        and (text == "0" or text[0] != "0")
        and len(text) <= 20
        and int(text) < 2**64
    ):
        return int(text)
    raise ProtocolError(f"{shorten(text)} is no number (RFC 7143 6.1)")


def parse_boolean(text: str) -> bool:
    """``Yes`` or ``No``, in exactly this spelling.

    Raises:
        ProtocolError: anything else.
    """
    if text == "Yes":
        return True
    if text == "No":
        return False
    raise ProtocolError(f"{shorten(text)} is neither Yes nor No (RFC 7143 6.1)")


def format_boolean(value: bool) -> str:
    """The boolean-value for ``value``."""
    return "Yes" if value else "No"


def parse_list(text: str) -> tuple[str, ...]:
    """The members of a list-of-values, in order.

    Raises:
        ProtocolError: a member is empty.
    """
    members = tuple(text.split(","))
    if not all(members):
        raise ProtocolError(f"{shorten(text)} is no list of values (RFC 7143 6.1)")
    return members


def format_list(members: Sequence[str]) -> str:
    """The list-of-values for ``members``."""
    return ",".join(members)


def split_text(data: bytes, max_length: int) -> list[bytes]:
    """``data`` in parts of at most ``max_length``; all but the last go with the C bit."""
    if len(data) <= max_length:
        return [data]
    return [data[start : start + max_length] for start in range(0, len(data), max_length)]


class TextAssembler:
    """Joins the data segments of one logical text (RFC 7143 6.1), up to ``limit`` bytes.

    Feed it every data segment with ``more`` as the C bit says; it gives the whole text when the
    last part is in, and is then empty again.
    """

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def feed(self, data: bytes | bytearray | memoryview, *, more: bool) -> bytes | None:
        """Take one part; the whole text if it was the last, else None.

        Raises:
            ProtocolError: the text grows beyond the limit.
        """
        size = self._size + len(data)
        if size > self._limit:
            raise ProtocolError(f"a text of the peer is longer than {self._limit} bytes")
        self._parts.append(bytes(data))
        self._size = size
        if more:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return whole
