# SPDX-License-Identifier: Apache-2.0
"""iSCSI names, ISIDs, SCSI port names and portals.

RFC 7143 4.2.7 (names), RFC 3722 (their preparation), 11.12.5 (ISID), 4.4.2 (port names), 13.8
(TargetAddress). Two doors for names, because they have two sources: ``prepare_name`` folds and
restricts what a person chose as our own name; ``check_iscsi_name`` only looks at the form and
gives the name back untouched, because what a target calls itself must be said back byte for byte,
even where it breaks RFC 3722 (upper case and underscores are common).

The module resolves no host and draws no random number.
"""

from __future__ import annotations

import ipaddress
import re
import stringprep
import unicodedata
from dataclasses import dataclass
from typing import Self

from .errors import InvalidName, InvalidUrl

MAX_NAME_BYTES = 223
"""RFC 7143 4.2.7.2: an iSCSI name takes at most 223 bytes in UTF-8."""
DEFAULT_PORT = 3260
"""IANA's port for iSCSI (RFC 7143 15)."""

_IQN = re.compile(r"iqn\.[0-9]{4}-(?:0[1-9]|1[0-2])\.[^.:][^:]*(?::.*)?", re.IGNORECASE | re.DOTALL)
_EUI = re.compile(r"eui\.[0-9a-f]{16}", re.IGNORECASE)
_NAA = re.compile(r"naa\.(?:[0-9a-f]{16}|[0-9a-f]{32})", re.IGNORECASE)
_FORMS = {
    "iqn.": (
        _IQN,
        "wants iqn.yyyy-mm.reversed-domain[:anything], like iqn.2001-04.com.example:disk",
    ),
    "eui.": (_EUI, "write eui. and 16 hexadecimal digits"),
    "naa.": (_NAA, "write naa. and 16 or 32 hexadecimal digits"),
}

_PROHIBITED_TABLES = (
    stringprep.in_table_c11,
    stringprep.in_table_c12,
    stringprep.in_table_c21,
    stringprep.in_table_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
_IDEOGRAPHIC_FULL_STOP = "\u3002"


def check_iscsi_name(name: str) -> str:
    """The same name, if its form is one of RFC 7143 4.2.7; nothing is folded.

    Raises InvalidName.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName("iSCSI name", name, "is not UTF-8") from None
    if size > MAX_NAME_BYTES:
        raise InvalidName(
            "iSCSI name", name, f"takes {size} bytes; RFC 7143 4.2.7.2 allows {MAX_NAME_BYTES}"
        )
    if any(char.isspace() or unicodedata.category(char) == "Cc" for char in name):
        raise InvalidName("iSCSI name", name, "has white space or control characters in it")
    form = _FORMS.get(name[:4].lower())
    if form is None:
        raise InvalidName("iSCSI name", name, "starts with none of iqn., eui., naa.")
    pattern, remedy = form
    if not pattern.fullmatch(name):
        raise InvalidName("iSCSI name", name, f"is no {name[:3].lower()} name", remedy)
    return name


def prepare_name(text: str) -> str:
    """A name as a person wrote it, made ready to be used and compared (RFC 3722).

    Raises InvalidName for a character that no iSCSI name may have, and for a wrong form.
    """
    # RFC 3722 3: map with tables B.1 and B.2; 4: normalize with NFKC (of Unicode 3.2).
    mapped = "".join(
        stringprep.map_table_b2(char) for char in text if not stringprep.in_table_b1(char)
    )
    name = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for char in name:
        if _prohibited(char):
            raise InvalidName(
                "iSCSI name",
                text,
                f"has the character {char!r}, which RFC 3722 does not allow",
                "use letters, digits, dash, dot and colon",
            )
    _check_direction(text, name)
    return check_iscsi_name(name)


def _prohibited(char: str) -> bool:
    if char.isascii():
        # RFC 3722 6: of ASCII, only a-z, 0-9, dash, dot and colon are left.
        return not (char.isalnum() or char in "-.:")
    return (
        char == _IDEOGRAPHIC_FULL_STOP
        or stringprep.in_table_a1(char)
        or any(table(char) for table in _PROHIBITED_TABLES)
    )


def _check_direction(text: str, name: str) -> None:
    """RFC 3454 6, which RFC 3722 takes over: right-to-left text stands alone."""
    if not any(stringprep.in_table_d1(char) for char in name):
        return
    whole = all(map(stringprep.in_table_d1, (name[0], name[-1])))
    if not whole or any(stringprep.in_table_d2(char) for char in name):
        raise InvalidName("iSCSI name", text, "mixes right-to-left and left-to-right characters")


def make_isid(random3: bytes, qualifier: int = 0) -> bytes:
    """An ISID of the "Random" type (RFC 7143 11.12.5, T = 10b) around three random bytes.

    Raises InvalidName for parts that do not fit.
    """
    if len(random3) != 3:
        raise InvalidName("ISID", random3, "needs exactly 3 random bytes")
    if not 0 <= qualifier <= 0xFFFF:
        raise InvalidName("ISID qualifier", qualifier, "is not in 0..65535")
    return b"\x80" + bytes(random3) + qualifier.to_bytes(2, "big")


def isid_text(isid: bytes) -> str:
    """The 12 hexadecimal digits by which an ISID is shown."""
    return isid.hex()


def initiator_port_name(initiator_name: str, isid: bytes) -> str:
    """The SCSI name of our port (RFC 7143 4.4.2), as in TransportIDs."""
    return f"{initiator_name},i,0x{isid_text(isid)}"


def target_port_name(target_name: str, target_portal_group_tag: int) -> str:
    """The SCSI name of a target port (RFC 7143 4.4.2), as in VPD page 83h."""
    return f"{target_name},t,0x{target_portal_group_tag:04x}"


_DECIMAL = re.compile(r"[0-9]{1,10}")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,8}")
_BAD_IN_HOST = re.compile(r"[\s\x00-\x1f\x7f/?#@\[\]:,%\\]")
_DIGITS_AND_DOTS = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class Portal:
    """Where a target listens: a host name or address literal, a port, perhaps a group tag.

    An IPv6 literal is held without brackets, and with its zone if it has one.
    """

    host: str
    port: int = DEFAULT_PORT
    tag: int | None = None

    def __post_init__(self) -> None:
        if not self.host or not isinstance(self.host, str):
            raise InvalidUrl("portal host", self.host, "is no host name or address")
        for what, number in (("port", self.port), ("portal group tag", self.tag or 0)):
            # Looking up an address takes a larger port modulo 65536.
            if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
                raise InvalidUrl(f"{what} of portal {self.host}", number, "is not in 0..65535")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``domainname[:port][,portal-group-tag]`` (RFC 7143 13.8).

        The tag may be missing or present, decimal or hexadecimal, whoever wrote it. An IPv6
        literal without brackets is taken where it can mean nothing else. Raises InvalidUrl.
        """
        address, comma, tag_text = text.strip().partition(",")
        tag = _number(text, "portal group tag", tag_text, 0, 0xFFFF) if comma else None
        if address.startswith("["):
            host, bracket, rest = address[1:].partition("]")
            if not bracket:
                raise InvalidUrl("portal", text, "has [ without ]")
            _check_ipv6(text, host)
        elif address.count(":") > 1:
            host, rest = address, ""
            _check_ipv6(text, host)
        else:
            host, colon, port_text = address.partition(":")
            rest = colon + port_text
            _check_host(text, host)
        if not rest:
            return cls(host, DEFAULT_PORT, tag)
        if rest[0] != ":":
            raise InvalidUrl("portal", text, f"has {rest!r} after the address", "write host:port")
        return cls(host, _number(text, "port", rest[1:], 1, 0xFFFF), tag)

    @property
    def address(self) -> str:
        """``host:port`` without the tag, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.address if self.tag is None else f"{self.address},{self.tag}"


def _number(text: str, what: str, digits: str, low: int, high: int) -> int:
    if _DECIMAL.fullmatch(digits):
        value = int(digits)
    elif _HEXADECIMAL.fullmatch(digits):
        value = int(digits, 16)
    else:
        raise InvalidUrl("portal", text, f"has {digits!r} for a {what}")
    if not low <= value <= high:
        raise InvalidUrl("portal", text, f"has a {what} outside {low}..{high}")
    return value


def _check_ipv6(text: str, host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise InvalidUrl("portal", text, f"{host!r} is no IPv6 address") from None
    if _BAD_IN_HOST.search(host.partition("%")[2]):
        raise InvalidUrl("portal", text, f"{host!r} has a zone that cannot be one")


def _check_host(text: str, host: str) -> None:
    if not host:
        raise InvalidUrl("portal", text, "has no host")
    if len(host) > 253:
        raise InvalidUrl("portal", text, "has a host name of more than 253 characters")
    if _BAD_IN_HOST.search(host):
        raise InvalidUrl("portal", text, f"{host!r} is no host name")
    if _DIGITS_AND_DOTS.fullmatch(host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise InvalidUrl("portal", text, f"{host!r} is no IPv4 address") from None
