# SPDX-License-Identifier: Apache-2.0
"""What an iSCSI client says to an iSNS server, and what it is told (RFC 4171 5.6, 5.7).

Requests are built here, and responses, state change notifications and entity status inquiries are
read here. Nothing is remembered: who registered what, and when, is the client's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import ProtocolError
from ...names import DEFAULT_PORT, Portal
from ..targets import DiscoveredTarget
from .attributes import (
    DELIMITER,
    ISCSI_PROTOCOL,
    UDP_PORT,
    Attribute,
    NodeType,
    ScnBitmap,
    Tag,
    address,
    decode_attributes,
    encode_attributes,
    number,
    text,
)
from .pdu import RESPONSE, Flags, Function, Message
from .status import SUCCESSFUL

SCN_EVENTS = (
    ScnBitmap.TARGET_AND_SELF_ONLY
    | ScnBitmap.OBJECT_ADDED
    | ScnBitmap.OBJECT_REMOVED
    | ScnBitmap.OBJECT_UPDATED
)
"""What an initiator wants to be told; the other bits are for management (RFC 4171 6.4.4)."""

_WANTED = (
    Tag.ISCSI_NAME,
    Tag.ISCSI_NODE_TYPE,
    Tag.ISCSI_ALIAS,
    Tag.PORTAL_IP_ADDRESS,
    Tag.PORTAL_PORT,
    Tag.PG_ISCSI_NAME,
    Tag.PG_PORTAL_IP_ADDRESS,
    Tag.PG_PORTAL_PORT,
    Tag.PG_TAG,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request, without the transaction id that it gets when it is sent."""

    function: Function
    attributes: tuple[Attribute, ...]
    what: str
    """What it asks for, in words that fit after "refused"."""
    flags: Flags = Flags.CLIENT

    def message(self, transaction_id: int) -> Message:
        """The message for one transaction."""
        return Message(
            function_id=self.function,
            transaction_id=transaction_id,
            payload=encode_attributes(self.attributes),
            flags=self.flags,
        )


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its status, and the attributes of a successful one."""

    status: int
    attributes: tuple[Attribute, ...] = ()

    @classmethod
    def parse(cls, message: Message) -> Response:
        """Read a response.

        Raises:
            ProtocolError: it has no status, or its attributes cannot be read.
        """
        if len(message.payload) < 4:
            raise ProtocolError("an iSNS response without a status")
        status = int.from_bytes(message.payload[:4], "big")
        if status != SUCCESSFUL:
            # RFC 4171 5.4: "A non-zero status code indicates rejection of the entire iSNS
            # client request message."
            return cls(status)
        return cls(status, tuple(decode_attributes(message.payload[4:])))

    def first(self, tag: Tag) -> Attribute | None:
        """The first attribute of a kind that has a value."""
        return next((each for each in self.attributes if each.tag == tag and each.value), None)


@dataclass(frozen=True, slots=True)
class ScnPortal:
    """Where a node takes notifications: the address and the UDP port of its datagram socket."""

    host: str
    port: int

    def attributes(self) -> tuple[Attribute, ...]:
        """The key of the portal object."""
        return (
            address(Tag.PORTAL_IP_ADDRESS, self.host),
            number(Tag.PORTAL_PORT, self.port | UDP_PORT),
        )


def register(
    source: str,
    entity: str,
    *,
    portal: ScnPortal | None = None,
    alias: str = "",
    replace: bool = False,
    node: bool = True,
    esi: bool = True,
) -> Request:
    """DevAttrReg of an initiator, its entity and the portal on which it listens.

    With ``replace`` what the entity had is replaced; without ``node`` only the portal is added to
    an entity that exists. With ``esi`` the server asks the portal from time to time whether it is
    there, and forgets us when it is not.
    """
    key = (text(Tag.ENTITY_IDENTIFIER, entity),)
    objects = [*key, number(Tag.ENTITY_PROTOCOL, ISCSI_PROTOCOL)]
    if portal is not None:
        objects += portal.attributes()
        if esi:
            objects.append(number(Tag.ESI_PORT, portal.port | UDP_PORT))
        objects.append(number(Tag.SCN_PORT, portal.port | UDP_PORT))
    if node:
        objects.append(text(Tag.ISCSI_NAME, source))
        objects.append(number(Tag.ISCSI_NODE_TYPE, NodeType.INITIATOR))
        if alias:
            objects.append(text(Tag.ISCSI_ALIAS, alias))
    return Request(
        Function.DEV_ATTR_REG,
        (text(Tag.ISCSI_NAME, source), *key, DELIMITER, *objects),
        f"the registration of {source}",
        Flags.CLIENT | Flags.REPLACE if replace else Flags.CLIENT,
    )


def deregister(source: str, objects: Iterable[Attribute]) -> Request:
    """DevDereg of objects, by their keys."""
    return Request(
        Function.DEV_DEREG,
        (text(Tag.ISCSI_NAME, source), DELIMITER, *objects),
        f"the deregistration of {source}",
    )


def query_node(source: str, name: str) -> Request:
    """DevAttrQry for the entity that a node is registered in."""
    return Request(
        Function.DEV_ATTR_QRY,
        (
            text(Tag.ISCSI_NAME, source),
            text(Tag.ISCSI_NAME, name),
            DELIMITER,
            Attribute(Tag.ENTITY_IDENTIFIER),
            Attribute(Tag.ISCSI_NAME),
        ),
        f"the query for {name}",
    )


def query_targets(source: str) -> Request:
    """DevAttrQry for the targets that share a discovery domain with us, and their portals."""
    return Request(
        Function.DEV_ATTR_QRY,
        (
            text(Tag.ISCSI_NAME, source),
            number(Tag.ISCSI_NODE_TYPE, NodeType.TARGET),
            DELIMITER,
            *(Attribute(tag) for tag in _WANTED),
        ),
        "the query for targets",
    )


def query_target(source: str, name: str) -> Request:
    """The same for one target."""
    return Request(
        Function.DEV_ATTR_QRY,
        (
            text(Tag.ISCSI_NAME, source),
            text(Tag.ISCSI_NAME, name),
            DELIMITER,
            *(Attribute(tag) for tag in _WANTED),
        ),
        f"the query for {name}",
    )


def next_node(source: str, after: str) -> Request:
    """DevGetNext: the node after one, or the first one after nothing, and what it is."""
    return Request(
        Function.DEV_GET_NEXT,
        (
            text(Tag.ISCSI_NAME, source),
            text(Tag.ISCSI_NAME, after),
            DELIMITER,
            Attribute(Tag.ISCSI_NODE_TYPE),
        ),
        "the query for the next node",
    )


def scn_register(source: str, events: ScnBitmap = SCN_EVENTS) -> Request:
    """SCNReg: have notifications sent to the SCN ports of our entity."""
    name = text(Tag.ISCSI_NAME, source)
    return Request(
        Function.SCN_REG,
        (name, name, DELIMITER, number(Tag.ISCSI_SCN_BITMAP, events)),
        "to send state change notifications",
    )


def scn_deregister(source: str) -> Request:
    """SCNDereg: have no more of them sent."""
    name = text(Tag.ISCSI_NAME, source)
    return Request(
        Function.SCN_DEREG, (name, name, DELIMITER), "the end of state change notifications"
    )


# -- what the server says ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateChange:
    """One node of a notification, and what happened to it."""

    name: str
    events: ScnBitmap


def parse_scn(message: Message) -> tuple[Attribute, list[StateChange]]:
    """The destination of a notification (RFC 4171 5.6.5.8), and the changes it tells of.

    Raises:
        ProtocolError: it does not name its receiver, or no change.
    """
    attributes = decode_attributes(message.payload)
    if not attributes or attributes[0].tag != Tag.ISCSI_NAME:
        raise ProtocolError("an SCN that does not name its receiver")
    changes: list[StateChange] = []
    events: ScnBitmap | None = None
    for each in attributes[1:]:
        if each.tag == Tag.ISCSI_SCN_BITMAP:
            events = ScnBitmap(each.number & 0xFF)
        elif each.tag == Tag.ISCSI_NAME and events is not None:
            changes.append(StateChange(each.text, events))
    if not changes:
        raise ProtocolError("an SCN that tells of no change")
    return attributes[0], changes


def answer(message: Message, status: int, attributes: Iterable[Attribute] = ()) -> Message:
    """The response to a request of the server, with its transaction id."""
    return Message(
        function_id=message.function_id | RESPONSE,
        transaction_id=message.transaction_id,
        payload=status.to_bytes(4, "big") + encode_attributes(attributes),
        flags=Flags.CLIENT,
    )


@dataclass(slots=True)
class _Found:
    """A target in the making: its portals in order, and the tags of its portal groups."""

    name: str
    alias: str
    is_target: bool
    portals: list[tuple[str, int]]
    tags: dict[tuple[str, int], int | None]

    def target(self) -> DiscoveredTarget:
        portals = []
        for host, port in self.portals:
            tag = self.tags.get((host, port), -1)
            # RFC 4171 5.6.5.2: "if the PGT is NULL, then no relationship exists."
            if tag is not None and not port & UDP_PORT:
                number_of_port = port & 0xFFFF or DEFAULT_PORT
                portals.append(Portal(host, number_of_port, None if tag < 0 else tag & 0xFFFF))
        return DiscoveredTarget(self.name, tuple(dict.fromkeys(portals)), self.alias)


def parse_targets(attributes: Sequence[Attribute]) -> list[DiscoveredTarget]:
    """The targets of a response to :func:`query_targets`, without repetitions.

    An attribute that is missing is no error (RFC 4171 5.6.5.2); a target may have no portal.

    Raises:
        ProtocolError: a value of the wrong length, or a name that is no text.
    """
    found: dict[str, _Found] = {}
    current: _Found | None = None
    host: str | None = None
    last: tuple[str, int] | None = None
    started = False
    for each in attributes:
        # The message key comes first and is repeated from the request.
        started = started or each.tag == Tag.DELIMITER
        if not started:
            continue
        if each.tag == Tag.ISCSI_NAME and each.value:
            host = last = None
            current = found.setdefault(each.text, _Found(each.text, "", True, [], {}))
        elif current is None:
            continue
        elif each.tag == Tag.ISCSI_NODE_TYPE and each.value:
            current.is_target = bool(each.number & NodeType.TARGET)
        elif each.tag == Tag.ISCSI_ALIAS:
            current.alias = each.text
        elif each.tag in (Tag.PORTAL_IP_ADDRESS, Tag.PG_PORTAL_IP_ADDRESS) and each.value:
            host = each.address
        elif each.tag in (Tag.PORTAL_PORT, Tag.PG_PORTAL_PORT) and host is not None:
            last = host, each.number if each.value else 0
            if each.tag == Tag.PORTAL_PORT:
                current.portals.append(last)
        elif each.tag == Tag.PG_TAG and last is not None:
            current.tags[last] = each.number if each.value else None
    return [one.target() for one in found.values() if one.is_target]
