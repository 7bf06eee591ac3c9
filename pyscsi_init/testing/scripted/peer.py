# SPDX-License-Identifier: Apache-2.0
"""The target's end of one connection: numbers, digests and words, without I/O.

It decodes and counts what the initiator sends as an honest target would, and makes PDUs with the
numbers that are due; a script may give any other. Everything that passes goes to the recorder and
the invariants. What moves the bytes is somebody else: a socket, or a test that calls a machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...login.text import Pair, decode_pairs, encode_pairs
from ...pdu import (
    RESERVED_TAG,
    AsyncMessage,
    DataIn,
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
    serialize,
)
from ...serial import serial_add
from .invariants import Invariants
from .negotiated import Negotiated
from .raw import RawPdu
from .recorder import Recorder, Sender
from .wire import Splitter
from .witness_numbers import REQUESTS

P = TypeVar("P", bound=Pdu)

MEANINGLESS = 0xDEADBEEF
"""StatSN of a Data-In without status: whoever looks at it, errs."""

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

DECLARED_BY_INITIATORS = frozenset({"InitiatorName", "TargetName", "SessionType", "InitiatorAlias"})
"""Keys that ask for no answer."""

Sendable = Pdu | RawPdu | bytes


class Peer:
    """One connection, and what an honest target would know of it."""

    def __init__(
        self,
        recorder: Recorder,
        invariants: Invariants,
        *,
        number: int = 0,
        stat_sn: int = 500,
        window: int = 64,
        tsih: int = 7,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.recorder = recorder
        self.invariants = invariants
        self.window = window
        self.tsih = tsih
        self.keys = {**ANSWERS, **(keys or {})}
        self.inbox: deque[Pdu] = deque()
        """What the initiator sent and nobody looked at yet."""
        self.login_requests: list[LoginRequest] = []
        """All of them, of every connection that was played."""
        self.exp_cmd_sn = 0
        self.max_cmd_sn = 0
        self.begin(number, stat_sn=stat_sn)

    def begin(self, number: int, *, stat_sn: int) -> None:
        """A new connection: nothing of the one before is left but the record."""
        self.number = number
        self.stat_sn = stat_sn
        """What the next status carries."""
        self.inbox.clear()
        self._first_request = True
        self._received = Splitter()
        self._sent = Splitter()

    @property
    def parameters(self) -> Negotiated:
        """What was negotiated, as the wire shows it."""
        return self.invariants.parameters(self.number)

    @property
    def full_feature(self) -> bool:
        """The final Login Response was sent."""
        return self.invariants.full_feature(self.number)

    # -- bytes ------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes of the initiator: PDUs go to ``inbox``, whole ones only."""
        self.recorder.bytes_passed(self.number, Sender.INITIATOR, data)
        self._received.feed(data)
        while (wire := self._received.next_pdu()) is not None:
            entry = self.recorder.pdu_passed(self.number, Sender.INITIATOR, wire)
            self.invariants.passed(entry)
            if entry.pdu is not None:
                self._count(entry.pdu)
                self.inbox.append(entry.pdu)

    def _count(self, pdu: Pdu) -> None:
        if isinstance(pdu, LoginRequest):
            if self._first_request:
                self._first_request = False
                self._open_window(pdu.cmd_sn)
            self.login_requests.append(pdu)
        elif isinstance(pdu, REQUESTS) and not pdu.immediate and pdu.cmd_sn == self.exp_cmd_sn:
            self._open_window(serial_add(self.exp_cmd_sn, 1))

    def _open_window(self, exp_cmd_sn: int) -> None:
        self.exp_cmd_sn = exp_cmd_sn
        self.max_cmd_sn = serial_add(exp_cmd_sn, self.window - 1)

    def set_window(self, commands: int) -> None:
        """From now on so many commands may be unacknowledged; the next PDU says so."""
        self.window = commands
        self._open_window(self.exp_cmd_sn)

    def encode(self, *items: Sendable) -> bytes:
        """The bytes of PDUs, digests as negotiated, written down as sent."""
        return b"".join(self._encode(item) for item in items)

    def _encode(self, item: Sendable) -> bytes:
        agreed = self.parameters
        if isinstance(item, RawPdu):
            data = item.serialize(agreed.header_digest, agreed.data_digest)
        elif isinstance(item, Pdu):
            data = b"".join(serialize(item, agreed.header_digest, agreed.data_digest))
        else:
            data = item
        self.recorder.bytes_passed(self.number, Sender.TARGET, data)
        self._written_down(item, data)
        # Digests follow the final Login Response, both ways.
        agreed = self.parameters
        for splitter in (self._received, self._sent):
            splitter.header_digest = agreed.header_digest
            splitter.data_digest = agreed.data_digest
        return data

    def _written_down(self, item: Sendable, data: bytes) -> None:
        """Whoever lies about lengths is read alone, so that the next PDU is seen as one again."""
        splitter = self._sent
        if isinstance(item, RawPdu):
            splitter = Splitter()
            splitter.header_digest, splitter.data_digest = (
                self._sent.header_digest,
                self._sent.data_digest,
            )
        splitter.feed(data)
        while (wire := splitter.next_pdu()) is not None:
            self.invariants.passed(self.recorder.pdu_passed(self.number, Sender.TARGET, wire))

    # -- words ------------------------------------------------------------------------------------

    def make(self, kind: Callable[..., P], *, counts: bool, **fields: Any) -> P:
        """A PDU with the numbers that are due; with ``counts`` it takes a StatSN."""
        fields.setdefault("exp_cmd_sn", self.exp_cmd_sn)
        fields.setdefault("max_cmd_sn", self.max_cmd_sn)
        if "stat_sn" not in fields:
            fields["stat_sn"] = self.stat_sn
            if counts:
                self.stat_sn = serial_add(self.stat_sn, 1)
        return kind(**fields)

    def response(self, command: ScsiCommand, **fields: Any) -> ScsiResponse:
        """The status of a command: GOOD, where nothing else is said."""
        fields.setdefault("initiator_task_tag", command.initiator_task_tag)
        return self.make(ScsiResponse, counts=True, **fields)

    def data_in(self, command: ScsiCommand, offset: int, data: bytes, **fields: Any) -> DataIn:
        """Read data; ``status_present=True, final=True`` makes it the end of the command."""
        status = fields.get("status_present", False)
        if not status:
            fields.setdefault("stat_sn", MEANINGLESS)
        fields.setdefault("initiator_task_tag", command.initiator_task_tag)
        return self.make(DataIn, counts=status, buffer_offset=offset, data=data, **fields)

    def r2t(self, command: ScsiCommand, offset: int, length: int, **fields: Any) -> ReadyToTransfer:
        """Ask for data of a write."""
        fields.setdefault("target_transfer_tag", 0x51)
        fields.setdefault("lun", command.lun)
        fields.setdefault("initiator_task_tag", command.initiator_task_tag)
        return self.make(
            ReadyToTransfer,
            counts=False,
            buffer_offset=offset,
            desired_data_transfer_length=length,
            **fields,
        )

    def managed(
        self, request: TaskManagementRequest, response: int = 0, **fields: Any
    ) -> TaskManagementResponse:
        """The answer to a task management request."""
        fields.setdefault("initiator_task_tag", request.initiator_task_tag)
        return self.make(TaskManagementResponse, counts=True, response=response, **fields)

    def nop_in(self, **fields: Any) -> NopIn:
        """A NOP-In that is no answer to a ping; a ping itself with a ``target_transfer_tag``."""
        fields.setdefault("initiator_task_tag", RESERVED_TAG)
        return self.make(NopIn, counts=fields["initiator_task_tag"] != RESERVED_TAG, **fields)

    def pong(self, ping: NopOut, **fields: Any) -> NopIn:
        """The answer to a ping of the initiator."""
        fields.setdefault("data", bytes(ping.data))
        return self.nop_in(initiator_task_tag=ping.initiator_task_tag, **fields)

    def async_message(self, event: int, **fields: Any) -> AsyncMessage:
        """An asynchronous message."""
        return self.make(AsyncMessage, counts=True, async_event=event, **fields)

    def reject(self, pdu: Pdu, reason: int, **fields: Any) -> Reject:
        """A Reject with the header of the PDU."""
        fields.setdefault("data", pdu.encode()[:48])
        return self.make(Reject, counts=True, reason=reason, **fields)

    def text(self, request: TextRequest, pairs: list[Pair] | bytes, **fields: Any) -> TextResponse:
        """The answer to a text request: pairs, or the bytes of them."""
        fields.setdefault("final", True)
        fields.setdefault("initiator_task_tag", request.initiator_task_tag)
        data = pairs if isinstance(pairs, bytes) else encode_pairs(pairs)
        return self.make(TextResponse, counts=True, data=data, **fields)

    def logged_out(
        self, request: LogoutRequest, response: int = 0, **fields: Any
    ) -> LogoutResponse:
        """The answer to a logout request."""
        fields.setdefault("initiator_task_tag", request.initiator_task_tag)
        return self.make(LogoutResponse, counts=True, response=response, **fields)

    # -- the login phase --------------------------------------------------------------------------

    def answers(self, request: LoginRequest) -> list[Pair]:
        """The answers to the keys of a request, as ``keys`` says; "" leaves one out."""
        return [
            (name, self.keys[name])
            for name, _ in decode_pairs(request.data)
            if name not in DECLARED_BY_INITIATORS and self.keys.get(name)
        ]

    def login_answer(
        self, request: LoginRequest, pairs: list[Pair] | None = None, **fields: Any
    ) -> LoginResponse:
        """The answer to a login request: it goes where the request wants to go."""
        fields.setdefault("transit", request.transit)
        fields.setdefault("next_stage", request.next_stage if fields["transit"] else 0)
        final = fields["transit"] and fields["next_stage"] == 3
        fields.setdefault("tsih", (request.tsih or self.tsih) if final else request.tsih)
        fields.setdefault("current_stage", request.current_stage)
        fields.setdefault("initiator_task_tag", request.initiator_task_tag)
        fields.setdefault("isid", request.isid)
        fields.setdefault("data", encode_pairs(self.answers(request) if pairs is None else pairs))
        return self.make(LoginResponse, counts=True, **fields)

    def login_refusal(
        self, request: LoginRequest, status_class: int, status_detail: int, **fields: Any
    ) -> LoginResponse:
        """A Login Response with a status that is no success; it takes no StatSN."""
        fields.setdefault("stat_sn", 0)
        return self.login_answer(
            request,
            fields.pop("pairs", []),
            transit=False,
            status_class=status_class,
            status_detail=status_detail,
            **fields,
        )


def ends_login(response: LoginResponse) -> bool:
    """After this response comes full feature phase."""
    return response.transit and response.next_stage == 3 and response.status_class == 0
