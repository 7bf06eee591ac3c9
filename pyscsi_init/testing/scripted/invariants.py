# SPDX-License-Identifier: Apache-2.0
"""What holds for everything that an initiator sends, in every test.

All PDUs of both directions go through here; what breaks a rule is kept as a :class:`Violation` with
the PDU and what came before it, and raised by ``check``, which every step of a script calls. A rule
that a test breaks on purpose is named in ``allowed``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...pdu import LoginRequest, LoginResponse, Pdu
from .negotiated import Negotiated
from .recorder import Entry, Recorder, Sender
from .witness import Link, Phase, Witness
from .witness_format import Format, Legality
from .witness_keys import Keys
from .witness_numbers import CommandNumbers, StatusNumbers, Tags
from .witness_transfer import Transfers


class Violation(AssertionError):
    """The initiator sent what it may not send."""


class SessionWitnesses:
    """What belongs to a session and outlives a connection."""

    def __init__(self) -> None:
        self.commands = CommandNumbers()
        self.tags = Tags()
        self.transfers = Transfers()
        self.parameters: Negotiated | None = None
        """What the leading connection negotiated."""


class ConnectionWitnesses:
    """What belongs to one connection; the session is known from its first Login Request on."""

    def __init__(self, number: int) -> None:
        self.link = Link(number)
        self.status = StatusNumbers()
        self.session = SessionWitnesses()
        self._own: tuple[Witness, ...] = (Format(), Legality(), Keys(), self.status)

    def all(self) -> tuple[Witness, ...]:
        """Every witness, in the order in which they are asked."""
        session = self.session
        return (*self._own, session.commands, session.tags, session.transfers)


class Invariants:
    """The rules, for any number of connections of one test."""

    def __init__(self, recorder: Recorder, *, allowed: Iterable[str] = ()) -> None:
        self.recorder = recorder
        self.allowed = set(allowed)
        """Names of witnesses (``Format``, ``Tags``, ...) whose complaints do not count."""
        self.violations: list[Violation] = []
        self._connections: dict[int, ConnectionWitnesses] = {}
        self._sessions: dict[int, SessionWitnesses] = {}

    def of(self, connection: int) -> ConnectionWitnesses:
        """The witnesses of a connection."""
        found = self._connections.get(connection)
        if found is None:
            found = self._connections[connection] = ConnectionWitnesses(connection)
        return found

    def parameters(self, connection: int) -> Negotiated:
        """What was negotiated on a connection."""
        return self.of(connection).link.parameters

    def full_feature(self, connection: int) -> bool:
        """The login phase of a connection is over."""
        return self.of(connection).link.phase is not Phase.LOGIN

    def passed(self, entry: Entry) -> None:
        """A PDU passed, in either direction."""
        if entry.sender is Sender.INITIATOR:
            self._from_initiator(entry)
        elif entry.pdu is None:
            self.of(entry.connection).link.doubtful = True
        elif entry.wire.header_digest_ok and entry.wire.data_digest_ok:
            self._from_target(entry, entry.pdu)

    def _from_initiator(self, entry: Entry) -> None:
        connection = self.of(entry.connection)
        pdu = entry.pdu
        if pdu is None or entry.wire.opcode >= 0x20:
            self._complain("Format", "no PDU that an initiator may send", entry)
            return
        if isinstance(pdu, LoginRequest) and pdu.tsih in self._sessions:
            connection.session = self._sessions[pdu.tsih]
        for witness in connection.all():
            for text in witness.initiator(connection.link, pdu, entry.wire):
                self._complain(type(witness).__name__, text, entry)

    def _from_target(self, entry: Entry, pdu: Pdu) -> None:
        connection = self.of(entry.connection)
        for witness in connection.all():
            witness.target(connection.link, pdu, entry.wire)
        if isinstance(pdu, LoginResponse) and self.full_feature(entry.connection) and pdu.tsih:
            self._sessions[pdu.tsih] = connection.session
            self._inherit(connection)

    @staticmethod
    def _inherit(connection: ConnectionWitnesses) -> None:
        """RFC 7143 13: most keys are the leading connection's; one that takes its place, or joins
        it, negotiates only what is a connection's own."""
        session, link = connection.session, connection.link
        own = link.parameters
        if session.parameters is not None:
            link.parameters = replace(
                session.parameters,
                header_digest=own.header_digest,
                data_digest=own.data_digest,
                target_max_recv_data_segment_length=own.target_max_recv_data_segment_length,
                initiator_max_recv_data_segment_length=own.initiator_max_recv_data_segment_length,
            )
        session.parameters = link.parameters

    def _complain(self, witness: str, text: str, entry: Entry) -> None:
        if witness not in self.allowed:
            self.violations.append(
                Violation(f"{witness}: {text}\n  {entry}\nbefore it:\n{self.recorder.tail()}")
            )

    def check(self) -> None:
        """Raise the first violation, if there was one.

        Raises:
            Violation: with the PDU and what came before it.
        """
        if self.violations:
            raise self.violations[0]
