# SPDX-License-Identifier: Apache-2.0
"""SLPv2 messages of a user agent (RFC 2608 8): its requests, and the replies to them.

Authentication blocks are skipped: nothing here is more trusted for them. No I/O; bad bytes raise
ProtocolError and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from construct import (
    Bytes,
    ConstructError,
    GreedyBytes,
    GreedyString,
    Int8ub,
    Int16ub,
    Int24ub,
    Int32ub,
    Prefixed,
    PrefixedArray,
    Struct,
    this,
)

from ...errors import LocalProtocolError, ProtocolError

VERSION = 2
LENGTH_BYTES = 5
"""So many bytes of a message are needed to know its length."""
MAX_MESSAGE = 4 << 20
"""Bytes of a reply by TCP: some 30 000 targets."""
OVERFLOW = 0x8000
REQUEST_MULTICAST = 0x2000
DEFAULT_SCOPE = "DEFAULT"
LANGUAGE = "en"

_STRING: Any = Prefixed(Int16ub, GreedyString("utf-8"))
_HEADER: Any = Struct(
    "version" / Int8ub,
    "function_id" / Int8ub,
    "length" / Int24ub,
    "flags" / Int16ub,
    "next_extension_offset" / Int24ub,
    "xid" / Int16ub,
    "language" / _STRING,
)
_AUTHENTICATION: Any = Struct(
    "descriptor" / Int16ub, "length" / Int16ub, "rest" / Bytes(this.length - 4)
)
_AUTHENTICATIONS: Any = PrefixedArray(Int8ub, _AUTHENTICATION)
_URL_ENTRY: Any = Struct(
    "reserved" / Int8ub, "lifetime" / Int16ub, "url" / _STRING, "auths" / _AUTHENTICATIONS
)
_SERVICE_REQUEST: Any = Struct(
    "previous_responders" / _STRING,
    "service_type" / _STRING,
    "scopes" / _STRING,
    "predicate" / _STRING,
    "spi" / _STRING,
)
_ATTRIBUTE_REQUEST: Any = Struct(
    "previous_responders" / _STRING,
    "url" / _STRING,
    "scopes" / _STRING,
    "tags" / _STRING,
    "spi" / _STRING,
)
_REPLY: Any = Struct("error" / Int16ub, "rest" / GreedyBytes)
_COUNT: Any = Struct("count" / Int16ub, "rest" / GreedyBytes)
_ENTRY_AND_REST: Any = Struct("entry" / _URL_ENTRY, "rest" / GreedyBytes)
_ATTRIBUTE_REPLY: Any = Struct("attributes" / _STRING)
_DA_ADVERT: Any = Struct(
    "boot_timestamp" / Int32ub,
    "url" / _STRING,
    "scopes" / _STRING,
    "attributes" / _STRING,
    "spi" / _STRING,
)


class Function(IntEnum):
    """The messages of SLP that a user agent meets (RFC 2608 8)."""

    SRV_RQST = 1
    SRV_RPLY = 2
    ATTR_RQST = 6
    ATTR_RPLY = 7
    DA_ADVERT = 8
    SA_ADVERT = 11


ERRORS = {
    1: ("LANGUAGE_NOT_SUPPORTED", "the agent has nothing in this language"),
    2: ("PARSE_ERROR", "the agent reads the message in another way than we write it"),
    4: ("SCOPE_NOT_SUPPORTED", "ask in a scope that the agent serves"),
    5: ("AUTHENTICATION_UNKNOWN", "the agent wants authentication, which is not supported"),
    6: ("AUTHENTICATION_ABSENT", "the agent wants authentication, which is not supported"),
    7: ("AUTHENTICATION_FAILED", "the agent wants authentication, which is not supported"),
    9: ("VER_NOT_SUPPORTED", "the agent speaks another version than SLPv2"),
    10: ("INTERNAL_ERROR", "look at the agent's log"),
    11: ("DA_BUSY_NOW", "try again later"),
    12: ("OPTION_NOT_UNDERSTOOD", "the agent cannot be used for it"),
    14: ("MSG_NOT_SUPPORTED", "the agent cannot be used for it"),
}
"""RFC 2608 7: error code -> its name, and what to do."""
DA_BUSY_NOW = 11


def _list(items: Sequence[str]) -> str:
    return ",".join(items)


def _message(function: Function, body: bytes, xid: int, *, multicast: bool) -> bytes:
    head: bytes = _HEADER.build(
        {
            "version": VERSION,
            "function_id": function,
            "length": 0,
            "flags": REQUEST_MULTICAST if multicast else 0,
            "next_extension_offset": 0,
            "xid": xid,
            "language": LANGUAGE,
        }
    )
    length = len(head) + len(body)
    return head[:2] + length.to_bytes(3, "big") + head[5:] + body


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRequest:
    """SrvRqst: which services of a type are there (RFC 2608 8.1)."""

    service_type: str
    scopes: tuple[str, ...] = (DEFAULT_SCOPE,)
    predicate: str = ""

    @property
    def what(self) -> str:
        """It, in words."""
        return f"the request for {self.service_type}"

    def encode(self, xid: int, previous_responders: Sequence[str], *, multicast: bool) -> bytes:
        """The message. Raises LocalProtocolError for text that does not fit."""
        values = {
            "previous_responders": _list(previous_responders),
            "service_type": self.service_type,
            "scopes": _list(self.scopes),
            "predicate": self.predicate,
            "spi": "",
        }
        body = _build(_SERVICE_REQUEST, values)
        return _message(Function.SRV_RQST, body, xid, multicast=multicast)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeRequest:
    """AttrRqst: the attributes of one service (RFC 2608 10.3)."""

    url: str
    scopes: tuple[str, ...] = (DEFAULT_SCOPE,)
    tags: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """It, in words."""
        return f"the attributes of {self.url}"

    def encode(self, xid: int, previous_responders: Sequence[str], *, multicast: bool) -> bytes:
        """The message. Raises LocalProtocolError for text that does not fit."""
        values = {
            "previous_responders": _list(previous_responders),
            "url": self.url,
            "scopes": _list(self.scopes),
            "tags": _list(self.tags),
            "spi": "",
        }
        body = _build(_ATTRIBUTE_REQUEST, values)
        return _message(Function.ATTR_RQST, body, xid, multicast=multicast)


Request = ServiceRequest | AttributeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReply:
    """SrvRply: URLs of services (RFC 2608 8.2)."""

    xid: int
    error: int = 0
    overflow: bool = False
    """It did not fit the datagram: the whole is to be had by TCP."""
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeReply:
    """AttrRply: the attribute list of a service (RFC 2608 10.4)."""

    xid: int
    error: int = 0
    overflow: bool = False
    attributes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaAdvert:
    """DAAdvert: a directory agent, and the scopes that it serves (RFC 2608 8.5)."""

    xid: int
    error: int = 0
    overflow: bool = False
    url: str = ""
    scopes: tuple[str, ...] = ()
    boot_timestamp: int = 0
    """Zero where the agent is about to go down."""


Reply = ServiceReply | AttributeReply | DaAdvert


def _build(struct: Any, values: dict[str, str]) -> bytes:
    try:
        built: bytes = struct.build(values)
    except ConstructError as error:
        raise LocalProtocolError(f"a text does not fit an SLP message: {error}") from error
    return built


def _parse(struct: Any, data: bytes) -> Any:
    try:
        return struct.parse(data)
    except (ConstructError, UnicodeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"an SLP message that cannot be read: {error}") from error


def message_length(data: bytes) -> int:
    """The length of the message that begins with LENGTH_BYTES bytes.

    Raises:
        ProtocolError: it is no SLPv2, or longer than MAX_MESSAGE.
    """
    length = int.from_bytes(data[2:5], "big")
    if data[0] != VERSION:
        raise ProtocolError(f"SLP version {data[0]}: this is no SLPv2 agent")
    if not 14 <= length <= MAX_MESSAGE:
        raise ProtocolError(f"an SLP message of {length} bytes")
    return length


def parse_reply(data: bytes) -> Reply | None:
    """A reply, or None for a message that is none (other agents' requests are multicast too).

    Raises:
        ProtocolError: it cannot be read.
    """
    header = _parse(_HEADER, data)
    length = message_length(data[:LENGTH_BYTES])
    overflow = bool(header.flags & OVERFLOW)
    if length > len(data) and not overflow:
        raise ProtocolError(f"an SLP message of {len(data)} bytes that says it has {length}")
    body = data[14 + len(header.language.encode()) : length]
    readers: dict[int, Callable[[int, int, bool, bytes], Reply]] = {
        Function.SRV_RPLY: _service_reply,
        Function.ATTR_RPLY: _attribute_reply,
        Function.DA_ADVERT: _da_advert,
    }
    reader = readers.get(header.function_id)
    if reader is None:
        return None
    reply = _parse(_REPLY, body)
    return reader(int(header.xid), int(reply.error), overflow, bytes(reply.rest))


def _service_reply(xid: int, error: int, overflow: bool, body: bytes) -> ServiceReply:
    urls: list[str] = []
    if not error:
        counted = _parse(_COUNT, body)
        body = counted.rest
        for _ in range(counted.count):
            try:
                parsed = _parse(_ENTRY_AND_REST, body)
            except ProtocolError:
                if overflow:
                    break  # what fitted is whole, the rest comes by TCP
                raise
            urls.append(str(parsed.entry.url))
            body = parsed.rest
    return ServiceReply(xid=xid, error=error, overflow=overflow, urls=tuple(urls))


def _attribute_reply(xid: int, error: int, overflow: bool, body: bytes) -> AttributeReply:
    text = ""
    if not error and not overflow:
        text = str(_parse(_ATTRIBUTE_REPLY, body).attributes)
    return AttributeReply(xid=xid, error=error, overflow=overflow, attributes=text)


def _da_advert(xid: int, error: int, overflow: bool, body: bytes) -> DaAdvert:
    if error or overflow:
        return DaAdvert(xid=xid, error=error, overflow=overflow)
    parsed = _parse(_DA_ADVERT, body)
    return DaAdvert(
        xid=xid,
        url=str(parsed.url),
        scopes=tuple(each.strip() for each in parsed.scopes.split(",")),
        boot_timestamp=int(parsed.boot_timestamp),
    )
