# SPDX-License-Identifier: Apache-2.0
"""A session machine and the target that a test plays for it: no socket, no clock of its own.

``Script`` logs the machine in with chosen parameters, decodes what it sends (``take``) and answers
with PDUs whose StatSN, ExpCmdSN and MaxCmdSN are kept right unless a test gives others. The target
side is made of the PDU codec and the text codec alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.pdu import (
    AsyncMessage,
    DataIn,
    Framer,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    ReadyToTransfer,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
    decode_initiator_pdu,
    serialize,
)
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

ANSWERS = {
    "AuthMethod": "None",
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxConnections": "1",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "8192",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
    "TaskReporting": "RFC3720",
    "iSCSIProtocolLevel": "1",
}
"""What the target says to each key; a test replaces some."""

DECLARED_BY_US = {"InitiatorName", "TargetName", "SessionType", "InitiatorAlias"}

__all__ = ["Issued", "Script", "data_of"]

P = TypeVar("P", bound=Pdu)


class Script:
    """One session machine, and its target."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cmd_sn: int = 1000,
        stat_sn: int = 500,
        window: int = 64,
        discovery: bool = False,
        **keys: str,
    ) -> None:
        self.settings = settings or Settings()
        self.keys = ANSWERS | keys
        self.first_cmd_sn = cmd_sn
        self.first_stat_sn = stat_sn
        self.window = window
        self.now = 100.0
        self.discovery = discovery
        self.machine = SessionMachine(
            self.settings,
            initiator_name=INITIATOR,
            target_name=None if discovery else TARGET,
            isid=ISID,
            random_bytes=self._random,
            discovery=discovery,
        )
        self.login_requests: list[LoginRequest] = []
        self.header_digest = self.data_digest = False
        self.stat_sn = stat_sn
        self.exp_cmd_sn = cmd_sn
        self.max_cmd_sn = cmd_sn
        self.events: list[Event] = []
        self._framer = Framer(2**24 - 1)

    def _random(self, count: int) -> bytes:
        return self.first_cmd_sn.to_bytes(count, "big") if count == 4 else bytes(count)

    # -- what the machine sends -----------------------------------------------------------------

    def raw(self) -> bytes:
        """All bytes that are queued, now sent."""
        out = bytearray()
        while buffers := self.machine.data_to_send():
            data = b"".join(buffers)
            out += data
            self.machine.bytes_sent(len(data))
        return bytes(out)

    def take(self) -> list[Any]:
        """All PDUs that are queued, now sent, and counted as an honest target counts them."""
        return list(self._decode(self.raw()))

    def _decode(self, data: bytes) -> Iterator[Pdu]:
        framer = self._framer
        while data:
            buffer = framer.receive_buffer()
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            framer.bytes_received(count)
            data = data[count:]
            while (frame := framer.next_frame()) is not None:
                assert frame.data_digest_ok
                pdu = decode_initiator_pdu(frame)
                if hasattr(pdu, "data"):
                    pdu.data = bytes(pdu.data)
                self._count(pdu)
                yield pdu

    def _count(self, pdu: Pdu) -> None:
        counted = isinstance(
            pdu, (ScsiCommand, TaskManagementRequest, TextRequest, LogoutRequest, NopOut)
        )
        if counted and not getattr(pdu, "immediate", False):
            assert getattr(pdu, "cmd_sn", None) == self.exp_cmd_sn, "CmdSN out of order"
            self.exp_cmd_sn = (self.exp_cmd_sn + 1) & MASK
            self.max_cmd_sn = (self.exp_cmd_sn + self.window - 1) & MASK

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

    def send(self, *pdus: Pdu) -> None:
        """PDUs from the target, as they are, in one piece."""
        self.feed(
            b"".join(b"".join(serialize(pdu, self.header_digest, self.data_digest)) for pdu in pdus)
        )

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

    def make(self, kind: Callable[..., P], *, counts: bool, **fields: Any) -> P:
        """A PDU with the numbers that are due; with ``counts`` it takes a StatSN."""
        fields.setdefault("exp_cmd_sn", self.exp_cmd_sn)
        fields.setdefault("max_cmd_sn", self.max_cmd_sn)
        if "stat_sn" not in fields:
            fields["stat_sn"] = self.stat_sn
            if counts:
                self.stat_sn = (self.stat_sn + 1) & MASK
        return kind(**fields)

    def response(self, command: ScsiCommand, **fields: Any) -> ScsiResponse:
        return self.make(
            ScsiResponse, counts=True, initiator_task_tag=command.initiator_task_tag, **fields
        )

    def data_in(self, command: ScsiCommand, offset: int, data: bytes, **fields: Any) -> DataIn:
        status = fields.get("status_present", False)
        if not status:
            fields.setdefault("stat_sn", 0xDEADBEEF)  # meaningless without status
        return self.make(
            DataIn,
            counts=status,
            initiator_task_tag=command.initiator_task_tag,
            buffer_offset=offset,
            data=data,
            **fields,
        )

    def r2t(self, command: ScsiCommand, offset: int, length: int, **fields: Any) -> ReadyToTransfer:
        fields.setdefault("target_transfer_tag", 0x51)
        fields.setdefault("lun", command.lun)
        return self.make(
            ReadyToTransfer,
            counts=False,
            initiator_task_tag=command.initiator_task_tag,
            buffer_offset=offset,
            desired_data_transfer_length=length,
            **fields,
        )

    def managed(self, request: TaskManagementRequest, response: int = 0) -> TaskManagementResponse:
        return self.make(
            TaskManagementResponse,
            counts=True,
            initiator_task_tag=request.initiator_task_tag,
            response=response,
        )

    def nop_in(self, **fields: Any) -> NopIn:
        """A NOP-In that is no answer to a ping."""
        fields.setdefault("initiator_task_tag", RESERVED)
        return self.make(NopIn, counts=fields["initiator_task_tag"] != RESERVED, **fields)

    def async_message(self, event: int, **fields: Any) -> AsyncMessage:
        return self.make(AsyncMessage, counts=True, async_event=event, **fields)

    def reject(self, pdu: Pdu, reason: int, **fields: Any) -> Reject:
        fields.setdefault("data", pdu.encode()[:48])
        return self.make(Reject, counts=True, reason=reason, **fields)

    def text(self, request: TextRequest, pairs: list[tuple[str, str]], **fields: Any) -> Any:
        fields.setdefault("final", True)
        return self.make(
            TextResponse,
            counts=True,
            initiator_task_tag=request.initiator_task_tag,
            data=encode_pairs(pairs),
            **fields,
        )

    def logged_out(self, request: LogoutRequest, response: int = 0, **fields: Any) -> Any:
        return self.make(
            LogoutResponse,
            counts=True,
            initiator_task_tag=request.initiator_task_tag,
            response=response,
            **fields,
        )

    # -- the login phase ------------------------------------------------------------------------

    def log_in(self) -> Script:
        """From a new TCP connection to full feature phase."""
        self._framer = Framer(2**24 - 1)
        self.header_digest = self.data_digest = False
        self.stat_sn = self.first_stat_sn
        self.exp_cmd_sn = self.first_cmd_sn
        self.max_cmd_sn = (self.first_cmd_sn + self.window - 1) & MASK
        self.machine.connect(self.now)
        while True:
            request = self.one(LoginRequest)
            self.login_requests.append(request)
            self.send(self.login_answer(request))
            if request.transit and request.next_stage == 3:
                break
        assert isinstance(self.events[-1], LoggedIn), self.events
        self.header_digest = self.keys["HeaderDigest"] == "CRC32C"
        self.data_digest = self.keys["DataDigest"] == "CRC32C"
        self._framer.header_digest = self.header_digest
        self._framer.data_digest = self.data_digest
        return self

    def login_answer(self, request: LoginRequest, **fields: Any) -> LoginResponse:
        pairs = [
            (name, self.keys[name])
            for name, _ in decode_pairs(request.data)
            if name not in DECLARED_BY_US
        ]
        final = request.transit and request.next_stage == 3
        fields.setdefault("tsih", TSIH if final else 0)
        return self.make(
            LoginResponse,
            counts=True,
            transit=request.transit,
            current_stage=request.current_stage,
            next_stage=request.next_stage if request.transit else 0,
            initiator_task_tag=request.initiator_task_tag,
            isid=request.isid,
            data=encode_pairs(pairs),
            **fields,
        )

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
