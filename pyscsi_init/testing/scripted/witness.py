# SPDX-License-Identifier: Apache-2.0
"""What every witness of the wire has in common.

A witness sees all PDUs of both sides in the order in which they passed the target's end of the
wire, keeps what it must remember, and says in words what the initiator may not do. It never asks
the initiator anything: what it knows, it knows from the wire.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...login.text import Pair
from ...pdu import Pdu
from .negotiated import Negotiated
from .wire import WirePdu

Complaints = Iterator[str]
"""Sentences about one PDU; none means that it is right."""


class Phase(enum.Enum):
    """How far a connection is."""

    LOGIN = "login phase"
    FULL_FEATURE = "full feature phase"
    LOGOUT = "logout requested"


@dataclass(slots=True)
class Link:
    """One connection, as all witnesses know it."""

    number: int
    phase: Phase = Phase.LOGIN
    parameters: Negotiated = field(default_factory=Negotiated)
    initiator_pairs: list[Pair] = field(default_factory=list)
    target_pairs: list[Pair] = field(default_factory=list)
    doubtful: bool = False
    """The target sent what cannot be read: what an initiator makes of its numbers is not known."""


class Witness:
    """One group of rules."""

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        """The initiator sent this."""
        del link, pdu, wire
        yield from ()

    def target(self, link: Link, pdu: Pdu, wire: WirePdu) -> None:
        """The target sent this, and the initiator can read it."""
