# SPDX-License-Identifier: Apache-2.0
"""Everything that was on the wire, both ways, when, and what it means.

Two views of the same: chunks of bytes as they passed, so that half a PDU is seen too, and PDUs.
Times are of the clock that the recorder was given, so they are virtual where the test's are.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypeVar

from ...pdu import LoginRequest, LoginResponse, Pdu
from .wire import WirePdu

P = TypeVar("P", bound=Pdu)

SHOWN = 12
"""So many PDUs before a violation are shown with it."""


class Sender(enum.Enum):
    """Who sent it; the value is how it is drawn."""

    INITIATOR = "->"
    TARGET = "<-"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that were read or written in one step."""

    time: float
    connection: int
    sender: Sender
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One PDU; ``pdu`` is None where the codec cannot read it."""

    time: float
    connection: int
    sender: Sender
    wire: WirePdu
    pdu: Pdu | None

    def __str__(self) -> str:
        return f"{self.time:10.3f} #{self.connection} {self.sender.value} {describe(self.wire)}"


def describe(wire: WirePdu) -> str:
    """A PDU in one line: what the codec reads in it, or its header in hex."""
    pdu = wire.decode()
    what = f"opcode {wire.opcode:02x}h {wire.header.hex(' ', 4)}" if pdu is None else shown(pdu)
    if wire.data:
        # Text of the login phase may hold secrets of whoever uses this against a real target.
        kept = isinstance(pdu, (LoginRequest, LoginResponse))
        what += f" + {len(wire.data)} bytes" + ("" if kept else f" {wire.data[:16].hex()}")
    return what


def shown(pdu: Pdu) -> str:
    """A PDU with those of its fields that say something."""
    parts = []
    for each in fields(pdu):
        value = getattr(pdu, each.name)
        if each.name == "data" or value == each.default:
            continue
        wide = each.name.endswith("_tag")
        parts.append(f"{each.name}={value:#x}" if wide else f"{each.name}={_plain(value)}")
    return f"{type(pdu).__name__}({', '.join(parts)})"


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


class Recorder:
    """The record of one test: any number of connections, in the order in which things happened."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.chunks: list[Chunk] = []
        self.entries: list[Entry] = []

    def bytes_passed(self, connection: int, sender: Sender, data: bytes) -> None:
        """Write down bytes."""
        self.chunks.append(Chunk(self.now(), connection, sender, data))

    def pdu_passed(self, connection: int, sender: Sender, wire: WirePdu) -> Entry:
        """Write down a PDU."""
        entry = Entry(self.now(), connection, sender, wire, wire.decode())
        self.entries.append(entry)
        return entry

    # -- looking back ----------------------------------------------------------------------------

    def mark(self) -> int:
        """A point in the record, for ``since``."""
        return len(self.entries)

    def stream(self, connection: int, sender: Sender = Sender.INITIATOR) -> bytes:
        """All bytes of one direction of a connection."""
        return b"".join(
            chunk.data
            for chunk in self.chunks
            if chunk.connection == connection and chunk.sender is sender
        )

    def sent(
        self,
        kind: type[P],
        *,
        since: int = 0,
        connection: int | None = None,
        sender: Sender = Sender.INITIATOR,
        where: Callable[[P], bool] = lambda _: True,
    ) -> list[P]:
        """The PDUs of a kind that one side sent (the initiator, if nothing else is said)."""
        return [
            entry.pdu
            for entry in self.entries[since:]
            if isinstance(entry.pdu, kind)
            and entry.sender is sender
            and connection in (None, entry.connection)
            and where(entry.pdu)
        ]

    def times(self, kind: type[Pdu], *, since: int = 0) -> list[float]:
        """When the initiator sent PDUs of a kind."""
        return [
            entry.time
            for entry in self.entries[since:]
            if isinstance(entry.pdu, kind) and entry.sender is Sender.INITIATOR
        ]

    def assert_none(self, *kinds: type[Pdu], since: int = 0, connection: int | None = None) -> None:
        """Fail if the initiator sent a PDU of one of these kinds (of any kind without one)."""
        found = [
            str(entry)
            for entry in self.entries[since:]
            if entry.sender is Sender.INITIATOR
            and connection in (None, entry.connection)
            and (not kinds or isinstance(entry.pdu, kinds))
        ]
        if found:
            what = " or ".join(kind.__name__ for kind in kinds) or "PDU"
            raise AssertionError(f"the initiator sent {what}:\n" + "\n".join(found))

    def tail(self, count: int = SHOWN) -> str:
        """The last PDUs, a line each."""
        return "\n".join(str(entry) for entry in self.entries[-count:])
