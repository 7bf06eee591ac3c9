# SPDX-License-Identifier: Apache-2.0
"""A session machine and the target that a test plays for it: no socket, no clock of its own.

``Script`` is the target's end of the connection (:class:`pyscsi_init.testing.scripted.Peer`) with
the machine at the other end: it logs the machine in with chosen parameters, decodes what it sends
(``take``) and answers with PDUs whose numbers are right unless a test gives others. What holds for
everything that an initiator sends is checked at every ``take``.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pyscsi_init.pdu import LoginRequest, Pdu
from pyscsi_init.session import (
    ConnectionEnded,
    Event,
    LoggedIn,
    ManagementTask,
    Replay,
    ScsiTask,
    SessionMachine,
    TaskManagementFunction,
    TextTask,
)
from pyscsi_init.settings import Settings
from pyscsi_init.testing.scripted import Invariants, Peer, Recorder
from pyscsi_init.testing.scripted.peer import Sendable
from tests.pyscsi_init.session.issued import Issued, data_of

INITIATOR = "iqn.2026-11.example.host:one"
TARGET = "iqn.2026-11.example:disk"
ISID = b"\x80\x12\x34\x56\x00\x01"
LUN = bytes(8)
LUN_5 = b"\x00\x05" + bytes(6)
READ_CDB = bytes.fromhex("28000000000000000800") + bytes(6)
WRITE_CDB = bytes.fromhex("2a000000000000000800") + bytes(6)
TSIH = 7
RESERVED = 0xFFFFFFFF
MASK = 0xFFFFFFFF

__all__ = ["Issued", "Script", "data_of"]

P = TypeVar("P", bound=Pdu)


class Script(Peer):
    """One session machine, and its target."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cmd_sn: int = 1000,
        stat_sn: int = 500,
        window: int = 64,
        discovery: bool = False,
        allowed: tuple[str, ...] = (),
        **keys: str,
    ) -> None:
        self.now = 100.0
        recorder = Recorder(lambda: self.now)
        invariants = Invariants(recorder, allowed=allowed)
        super().__init__(recorder, invariants, stat_sn=stat_sn, window=window, tsih=TSIH, keys=keys)
        self.settings = settings or Settings()
        self.first_cmd_sn = cmd_sn
        self.first_stat_sn = stat_sn
        self.discovery = discovery
        self.machine = SessionMachine(
            self.settings,
            initiator_name=INITIATOR,
            target_name=None if discovery else TARGET,
            isid=ISID,
            random_bytes=self._random,
            discovery=discovery,
        )
        self.events: list[Event] = []

    def _random(self, count: int) -> bytes:
        return self.first_cmd_sn.to_bytes(count, "big") if count == 4 else bytes(count)

    # -- what the machine sends -----------------------------------------------------------------

    def raw(self) -> bytes:
        """All bytes that are queued, now sent; nobody looks at them."""
        out = bytearray()
        while buffers := self.machine.data_to_send():
            data = b"".join(buffers)
            out += data
            self.machine.bytes_sent(len(data))
        return bytes(out)

    def take(self) -> list[Any]:
        """All PDUs that are queued, now sent, and counted as an honest target counts them."""
        return self.decode(self.raw())

    def decode(self, data: bytes) -> list[Any]:
        """The PDUs in bytes that the machine sent, held against the rules."""
        self.receive(data)
        self.invariants.check()
        pdus = list(self.inbox)
        self.inbox.clear()
        return pdus

    def one(self, kind: type[P]) -> P:
        """The one PDU that the machine sent, which is of this kind."""
        pdus = self.take()
        assert [type(pdu) for pdu in pdus] == [kind]
        pdu = pdus[0]
        assert isinstance(pdu, kind)
        return pdu

    # -- what the machine receives --------------------------------------------------------------

    def feed(self, data: bytes, *, step: int = 0) -> None:
        """Bytes from the target, in pieces of ``step``, as long as there is a connection."""
        while data and self.machine.connection is not None:
            buffer = self.machine.receive_buffers()[0]
            count = min(len(buffer), len(data), step or len(data))
            buffer[:count] = data[:count]
            data = data[count:]
            self.machine.bytes_received(count, self.now)
        self.settle()

    def send(self, *items: Sendable, step: int = 0) -> None:
        """PDUs from the target, as they are, in one piece or in pieces of ``step`` bytes."""
        self.feed(self.encode(*items), step=step)

    def settle(self) -> None:
        """Take the events."""
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)

    def event(self, kind: type[Any]) -> Any:
        """The last event of a kind."""
        return [event for event in self.events if isinstance(event, kind)][-1]

    @property
    def lost(self) -> bool:
        """The connection was given up."""
        return self.machine.connection is None

    # -- the login phase ------------------------------------------------------------------------

    def connect(self) -> None:
        """A new TCP connection."""
        self.machine.connect(self.now)
        self.begin(self.number + 1 if self.recorder.chunks else 0, stat_sn=self.first_stat_sn)

    def log_in(self) -> Script:
        """From a new TCP connection to full feature phase."""
        self.connect()
        while True:
            request = self.one(LoginRequest)
            self.send(self.login_answer(request))
            if request.transit and request.next_stage == 3:
                break
        assert isinstance(self.events[-1], LoggedIn), self.events
        return self

    # -- what the application asks for ------------------------------------------------------------

    def read(self, length: int = 4096, *, lun: int = 0, cdb: bytes = READ_CDB, **kw: Any) -> Issued:
        """Submit a read."""
        kw.setdefault("replay", Replay.SAFE)
        kw.setdefault("modifies", False)
        buffer = bytearray(length)
        issued = Issued(buffer)
        issued.task = ScsiTask(
            LUN_5 if lun == 5 else LUN,
            cdb,
            issued.completed,
            data_in=memoryview(buffer) if length else None,
            **kw,
        )
        self.submit(issued.task)
        return issued

    def write(self, data: bytes | bytearray, *, lun: int = 0, **kw: Any) -> Issued:
        """Submit a write."""
        kw.setdefault("replay", Replay.SAFE)
        issued = Issued(bytearray())
        issued.task = ScsiTask(
            LUN_5 if lun == 5 else LUN,
            WRITE_CDB,
            issued.completed,
            data_out=memoryview(data),
            **kw,
        )
        self.submit(issued.task)
        return issued

    def submit(self, task: ScsiTask) -> None:
        """As the one who owns the socket does it."""
        if not self.machine.fast.start(task):
            self.machine.submit(task, self.now)

    def manage(self, function: TaskManagementFunction, *, lun: int = 0, **kw: Any) -> Issued:
        """Send a task management request."""
        issued = Issued(bytearray())
        request = ManagementTask(function, LUN_5 if lun == 5 else LUN, issued.completed, **kw)
        issued.request = request
        self.machine.manage(request, self.now)
        return issued

    def ask(self, pairs: list[tuple[str, str]]) -> Issued:
        """Start a text exchange."""
        issued = Issued(bytearray())
        issued.text = TextTask(pairs, issued.completed)
        self.machine.request_text(issued.text, self.now)
        return issued

    # -- time -----------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Let time pass; every deadline is kept at its moment, and each must make progress."""
        end = self.now + seconds
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.machine.handle_deadline(self.now)
            self.settle()
            later = self.machine.next_deadline()
            assert later is None or later > self.now, "a deadline that does not move away spins"
        self.now = end

    def ended(self) -> ConnectionEnded:
        """How the connection ended."""
        event = self.event(ConnectionEnded)
        assert isinstance(event, ConnectionEnded)
        return event
