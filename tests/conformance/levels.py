# SPDX-License-Identifier: Apache-2.0
"""A session machine at error recovery level 1 or 2, and the target that a test plays for it.

Nothing here is honest by itself: a test says which PDU comes, which does not, and which comes with
a wrong data digest. The numbers that a test does not give are the ones that are due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.pdu import (
    DataIn,
    Framer,
    LoginRequest,
    LoginResponse,
    NopIn,
    Pdu,
    ReadyToTransfer,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
    decode_initiator_pdu,
    serialize,
)
from pyscsi_init.session import (
    ConnectionEnded,
    Event,
    Replay,
    ScsiTask,
    SessionMachine,
)
from pyscsi_init.settings import Settings

TSIH = 9
FIRST_CMD_SN, FIRST_STAT_SN = 1000, 500
LUN_2 = b"\x00\x02" + bytes(6)
READ, WRITE = b"\x28" + bytes(15), b"\x2a" + bytes(15)
RESERVED = 0xFFFFFFFF
ANSWERS = {
    "AuthMethod": "None",
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxConnections": "1",
    "InitialR2T": "Yes",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "4096",
    "MaxBurstLength": "16384",
    "FirstBurstLength": "4096",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "20",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "TaskReporting": "RFC3720",
    "iSCSIProtocolLevel": "1",
}
OURS = {"InitiatorName", "TargetName", "SessionType", "InitiatorAlias"}


class Command:
    """A SCSI command of the application: its task, its buffer, and how often it was told the
    end."""

    def __init__(self, data: bytes | int, **kw: Any) -> None:
        self.times = 0
        self.error: Exception | None = None
        self.buffer = bytearray(data)
        view = memoryview(self.buffer)
        kw.setdefault("replay", Replay.SAFE)
        if isinstance(data, int):
            kw.setdefault("modifies", False)
            self.task = ScsiTask(LUN_2, READ, self._completed, data_in=view, **kw)
        else:
            self.task = ScsiTask(LUN_2, WRITE, self._completed, data_out=view, **kw)

    def _completed(self, task: ScsiTask) -> None:
        self.times += 1
        self.error = task.error

    @property
    def good(self) -> bool:
        """Ended once, with status GOOD."""
        assert self.times < 2, "completed twice"
        return self.times == 1 and self.error is None and self.task.status == 0


class Played:
    """One session machine, and its target."""

    def __init__(self, level: int, *, offered: int | None = None, **keys: str) -> None:
        self.keys = ANSWERS | {"ErrorRecoveryLevel": str(level)} | keys
        self.digest = self.keys["DataDigest"] == "CRC32C"
        digests = ("CRC32C",) if self.digest else ("None",)
        self.settings = Settings(
            error_recovery_level=level if offered is None else offered,
            default_time2retain=20,
            data_digest=digests,
        )
        self.machine = SessionMachine(
            self.settings,
            initiator_name="iqn.2026-11.example.host:levels",
            target_name="iqn.2026-11.example:levels",
            isid=b"\x80\x12\x34\x56\x00\x01",
            random_bytes=lambda count: FIRST_CMD_SN.to_bytes(count, "big"),
        )
        self.now = 100.0
        self.events: list[Event] = []
        self.stat_sn = FIRST_STAT_SN
        self.exp_cmd_sn = FIRST_CMD_SN
        self.full_feature = False
        self.login_requests: list[LoginRequest] = []
        self.log_in()

    # -- the initiator's PDUs ---------------------------------------------------------------------

    def take(self) -> list[Any]:
        """What it has sent since the last time."""
        out = bytearray()
        while buffers := self.machine.data_to_send():
            data = b"".join(buffers)
            out += data
            self.machine.bytes_sent(len(data))
        framer = Framer(2**24 - 1)
        framer.data_digest = self.digest and self.full_feature
        found = []
        while out:
            buffer = framer.receive_buffer()
            count = min(len(buffer), len(out))
            buffer[:count] = out[:count]
            framer.bytes_received(count)
            del out[:count]
            while (frame := framer.next_frame()) is not None:
                assert frame.data_digest_ok
                pdu: Any = decode_initiator_pdu(frame)
                pdu.data = bytes(pdu.data)
                found.append(pdu)
        return found

    def one(self, kind: type[Any]) -> Any:
        """The one PDU that it has sent, of this kind."""
        pdus = self.take()
        assert [type(pdu) for pdu in pdus] == [kind], pdus
        return pdus[0]

    def submit(self, command: Command) -> ScsiCommand:
        """Start a command; its PDU (the target counts it)."""
        if not self.machine.fast.start(command.task):
            self.machine.submit(command.task, self.now)
        pdus = self.take()
        assert isinstance(pdus[0], ScsiCommand)
        self.exp_cmd_sn = (pdus[0].cmd_sn + 1) & 0xFFFFFFFF
        return pdus[0]

    # -- the target's PDUs ------------------------------------------------------------------------

    def send(self, *pdus: Pdu, bad: bool = False) -> None:
        """Send PDUs; ``bad`` spoils the data digest of each."""
        for pdu in pdus:
            data = bytearray(b"".join(serialize(pdu, False, self.digest and self.full_feature)))
            if bad:
                assert self.digest
                assert len(pdu.data)
                data[-1] ^= 1
            while data and self.machine.connection is not None:
                buffer = self.machine.receive_buffers()[0]
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                del data[:count]
                self.machine.bytes_received(count, self.now)
        self.settle()

    def settle(self) -> None:
        """Take the events."""
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)

    def _make(self, kind: Callable[..., Any], counts: bool, fields: dict[str, Any]) -> Any:
        if "stat_sn" not in fields:
            fields["stat_sn"] = self.stat_sn
            self.stat_sn = (self.stat_sn + counts) & 0xFFFFFFFF
        fields.setdefault("exp_cmd_sn", self.exp_cmd_sn)
        fields.setdefault("max_cmd_sn", (self.exp_cmd_sn + 63) & 0xFFFFFFFF)
        return kind(**fields)

    def response(self, command: ScsiCommand, **fields: Any) -> ScsiResponse:
        return self._make(
            ScsiResponse, True, {"initiator_task_tag": command.initiator_task_tag} | fields
        )

    def pieces(
        self, command: ScsiCommand, data: bytes, size: int, *, status: bool = False, first: int = 0
    ) -> list[DataIn]:
        """All Data-In PDUs of a read, each ``size`` long; with ``status`` in the last."""
        offsets = range(0, len(data), size)
        return [
            self.data_in(
                command,
                first + index,
                offset,
                data[offset : offset + size],
                final=offset + size >= len(data),
                status_present=status and offset + size >= len(data),
            )
            for index, offset in enumerate(offsets)
        ]

    def data_in(
        self, command: ScsiCommand, data_sn: int, offset: int, data: bytes, **fields: Any
    ) -> DataIn:
        known = {
            "initiator_task_tag": command.initiator_task_tag,
            "data_sn": data_sn,
            "buffer_offset": offset,
            "data": data,
        }
        return self._make(DataIn, bool(fields.get("status_present")), known | fields)

    def r2t(
        self, command: ScsiCommand, r2t_sn: int, offset: int, length: int, **fields: Any
    ) -> ReadyToTransfer:
        known = {
            "initiator_task_tag": command.initiator_task_tag,
            "lun": command.lun,
            "r2t_sn": r2t_sn,
            "target_transfer_tag": 0x100 + r2t_sn,
            "buffer_offset": offset,
            "desired_data_transfer_length": length,
        }
        return self._make(ReadyToTransfer, False, known | fields)

    def reject(self, pdu: Pdu, reason: int, **fields: Any) -> Reject:
        return self._make(Reject, True, {"reason": reason, "data": pdu.encode()[:48]} | fields)

    def nop_in(self, **fields: Any) -> NopIn:
        counts = fields.get("initiator_task_tag", RESERVED) != RESERVED
        return self._make(NopIn, counts, {"initiator_task_tag": RESERVED} | fields)

    def managed(self, request: TaskManagementRequest, response: int) -> TaskManagementResponse:
        known = {"initiator_task_tag": request.initiator_task_tag, "response": response}
        return self._make(TaskManagementResponse, True, known)

    # -- logins and losses ------------------------------------------------------------------------

    def log_in(self, *, exp_cmd_sn: int | None = None, stat_sn: int = FIRST_STAT_SN) -> None:
        """A new TCP connection, and an honest login on it."""
        self.full_feature = False
        self.stat_sn = stat_sn
        self.login_requests.clear()
        self.machine.connect(self.now)
        while not self.full_feature:
            request = self.one(LoginRequest)
            self.login_requests.append(request)
            if exp_cmd_sn is None and not request.tsih:
                self.exp_cmd_sn = request.cmd_sn
            elif exp_cmd_sn is not None:
                self.exp_cmd_sn = exp_cmd_sn
            final = request.transit and request.next_stage == 3
            pairs = [
                (key, self.keys[key]) for key, _ in decode_pairs(request.data) if key not in OURS
            ]
            answer = self._make(
                LoginResponse,
                True,
                {
                    "transit": request.transit,
                    "current_stage": request.current_stage,
                    "next_stage": request.next_stage if request.transit else 0,
                    "initiator_task_tag": request.initiator_task_tag,
                    "isid": request.isid,
                    "tsih": (request.tsih or TSIH) if final else request.tsih,
                    "data": encode_pairs(pairs),
                },
            )
            self.send(answer)
            self.full_feature = final

    def cut(self) -> ConnectionEnded:
        """The connection dies; what the initiator makes of it."""
        self.machine.receive_eof(self.now)
        self.settle()
        event = self.events[-1]
        assert isinstance(event, ConnectionEnded)
        return event

    @property
    def lost(self) -> bool:
        """The initiator gave up the connection."""
        return self.machine.connection is None

    def pass_time(self, seconds: float) -> None:
        """Let time pass; every deadline is kept at its moment."""
        end = self.now + seconds
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.machine.handle_deadline(self.now)
            self.settle()
        self.now = end
