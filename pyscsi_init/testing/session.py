# SPDX-License-Identifier: Apache-2.0
"""One session in full feature phase: command ordering, the window, tasks, and every other PDU.

Owns ExpCmdSN and MaxCmdSN, StatSN, the tasks by Initiator Task Tag, and target transfer tags. One
connection per session: the numbers of session and connection therefore lie together here. PDUs come
in by :meth:`Session.receive` and leave by :meth:`Session.send`, which numbers them. Bytes, digests
and the socket belong to the connection.

A test may use :meth:`ping`, :meth:`async_message`, :meth:`drop`, and :meth:`send` with any PDU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from ..pdu import (
    RESERVED_TAG,
    AsyncMessage,
    DataIn,
    DataOut,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    ReadyToTransfer,
    Reject,
    RejectReason,
    ScsiCommand,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from ..scsi import decode_lun
from ..serial import serial_add, serial_gt, serial_le, serial_lt
from . import management
from .conditions import PROTOCOL_SERVICE_CRC_ERROR, Nexus
from .continuation import wait_for_reinstatement
from .faults import Faults
from .negotiation import Negotiated
from .retained import Retained
from .settings import TargetSettings
from .tasks import Task
from .text import TextExchange

if TYPE_CHECKING:
    from .connection import Connection
    from .server import TargetServer
    from .target import Target

MOST_ENDED_TAGS = 1024


class Session:
    """One session, normal (with a target) or discovery (``target`` is None)."""

    def __init__(
        self,
        server: TargetServer,
        connection: Connection,
        *,
        target: Target | None,
        nexus: Nexus,
        parameters: Negotiated,
        settings: TargetSettings,
        tsih: int,
        cid: int,
        cmd_sn: int,
        stat_sn: int,
    ) -> None:
        self.server = server
        self.connection = connection
        self.target = target
        self.nexus = nexus
        self.parameters = parameters
        self.settings = settings
        self.faults = target.faults if target is not None else Faults()
        self.tsih = tsih
        self.cid = cid
        self.exp_cmd_sn = cmd_sn
        self.max_cmd_sn = serial_add(cmd_sn, settings.command_window - 1)
        self.stat_sn = stat_sn
        self.exp_stat_sn = stat_sn
        """The initiator's last ExpStatSN."""
        self.ended = False
        self.detached = False
        """The connection is lost, and the session waits for another (error recovery level 2)."""
        self.retained = Retained(self) if parameters.error_recovery_level else None
        """What may be asked for again."""
        self.answered: dict[int, Task] = {}
        """Tasks that have ended here, but whose status the initiator has not acknowledged."""
        self.tasks: dict[int, Task] = {}
        self.pings: dict[int, bytes] = {}
        """Target transfer tags of our pings that have not been answered."""
        self._text = TextExchange(self)
        self._early: dict[int, Pdu] = {}
        """Commands that came before their turn, by CmdSN."""
        self._ended_tags: OrderedDict[int, None] = OrderedDict()
        self._transfer_tag = 0

    # Sending

    def send(self, pdu: Pdu) -> None:
        """Number a PDU and send it (or what a fault makes of it)."""
        if self.ended or self.detached:
            return
        numbered = self._number(pdu)
        if self.retained is not None:
            self.retained.note(pdu, numbered)
        self._emit(pdu)

    def resend(self, pdu: Pdu) -> None:
        """Send a PDU once more, with its numbers but for ExpCmdSN and MaxCmdSN."""
        pdu.exp_cmd_sn = self.exp_cmd_sn  # type: ignore[attr-defined]
        pdu.max_cmd_sn = self.max_cmd_sn  # type: ignore[attr-defined]
        self._emit(pdu)

    def _emit(self, pdu: Pdu) -> None:
        hook = self.faults.on_send
        replaced = hook(self, pdu) if hook is not None else None
        for one in (pdu,) if replaced is None else replaced:
            rule = self.faults.pdu_rule(one, sent=True) if self.faults.pdu_rules else None
            if rule is None:
                self.connection.send(one)
            elif rule.damages:
                self.connection.send(one, spoilt=True)

    def _number(self, pdu: Pdu) -> bool:
        """Fill in the numbers; whether the PDU uses up a StatSN."""
        window = self.settings.command_window - len(self.tasks)
        wider = serial_add(self.exp_cmd_sn, max(window, 0) - 1 & 0xFFFFFFFF)
        # RFC 7143 4.2.2.1: MaxCmdSN never goes back
        if serial_gt(wider, self.max_cmd_sn):
            self.max_cmd_sn = wider
        pdu.exp_cmd_sn = self.exp_cmd_sn  # type: ignore[attr-defined]
        pdu.max_cmd_sn = self.max_cmd_sn  # type: ignore[attr-defined]
        if isinstance(pdu, DataIn) and not pdu.status_present:
            return False
        pdu.stat_sn = self.stat_sn  # type: ignore[attr-defined]
        # RFC 7143 11.8.3, 11.19.2: R2T and a NOP-In that answers nothing show the next StatSN
        # without using it up
        if isinstance(pdu, ReadyToTransfer):
            return False
        if isinstance(pdu, NopIn) and pdu.initiator_task_tag == RESERVED_TAG:
            return False
        self.stat_sn = serial_add(self.stat_sn, 1)
        return True

    def new_transfer_tag(self) -> int:
        """A Target Transfer Tag that is not in use."""
        self._transfer_tag = (self._transfer_tag + 1) % RESERVED_TAG
        return self._transfer_tag

    def ping(self, data: bytes = b"") -> int:
        """Send a NOP-In that has to be answered; its tag leaves :attr:`pings` when it was."""
        tag = self.new_transfer_tag()
        self.pings[tag] = data
        self.send(NopIn(target_transfer_tag=tag, data=data))
        return tag

    def async_message(
        self,
        event: int,
        *,
        lun: bytes = bytes(8),
        vcode: int = 0,
        parameters: tuple[int, int, int] = (0, 0, 0),
        data: bytes = b"",
    ) -> None:
        """Send an Asynchronous Message (RFC 7143 11.9), e.g. event 1: please log out."""
        self.send(
            AsyncMessage(
                lun=lun,
                async_event=event,
                async_vcode=vcode,
                parameter1=parameters[0],
                parameter2=parameters[1],
                parameter3=parameters[2],
                data=data,
            )
        )

    def reject(self, pdu: Pdu, reason: int) -> None:
        """Answer a PDU with Reject."""
        self.reject_header(pdu.encode()[:48], reason)

    def reject_header(self, header: bytes, reason: int) -> None:
        """Answer the PDU with this BHS with Reject (RFC 7143 11.17)."""
        self.server.count("rejects", self.target)
        self.send(Reject(reason=reason, data=bytes(header)))

    # Ending

    def drop(self) -> None:
        """Close the connection at once, without a word."""
        self.connection.close()
        self.connection_lost(self.connection)

    def connection_lost(self, connection: Connection) -> None:
        """A connection has ended; at error recovery level 2 the session may outlive it."""
        if connection is not self.connection or self.ended or self.detached:
            return
        if not wait_for_reinstatement(self):
            self.end()

    def end(self) -> None:
        """The session is over, whoever ended it."""
        if self.ended:
            return
        self.ended = True
        cancel = not self.settings.writes_outlive_session
        for task in list(self.tasks.values()):
            task.abort(cancel=cancel or not task.changes_medium)
        if self.target is not None:
            self.target.end_session(self)
        self.server.end_session(self)

    def forget(self, task: Task) -> None:
        """A task has ended; Data-Out PDUs for it that are still on the wire are ignored."""
        tag = task.initiator_task_tag
        if self.tasks.get(tag) is task:
            del self.tasks[tag]
            self._ended_tags[tag] = None
            if len(self._ended_tags) > MOST_ENDED_TAGS:
                self._ended_tags.popitem(last=False)

    def abort_tasks(self, which: Callable[[Task], bool], *, cancel: bool = True) -> list[Task]:
        """End tasks without an answer; returns them."""
        found = [task for task in self.tasks.values() if which(task)]
        for task in found:
            task.abort(cancel=cancel)
        return found

    # Receiving

    def receive(self, pdu: Pdu, *, header: bytes, data_digest_ok: bool) -> None:
        """Take one PDU of full feature phase.

        Raises:
            ProtocolError: it cannot be in a session; the connection ends.
        """
        hook = self.faults.on_receive
        if hook is not None and hook(self, pdu):
            return
        if not data_digest_ok:
            self._bad_data_digest(pdu, header)
            return
        exp_stat_sn = getattr(pdu, "exp_stat_sn", None)
        if exp_stat_sn is not None:
            self.exp_stat_sn = exp_stat_sn
            if self.retained is not None:
                self.retained.acknowledge(exp_stat_sn)
        if isinstance(pdu, DataOut):
            self._data_out(pdu)
        elif isinstance(pdu, SnackRequest):
            if self.retained is not None:
                self.retained.snack(pdu, header)
            else:
                # RFC 7143 11.16: at error recovery level 0 there is nothing to ask for again
                self.reject_header(header, RejectReason.SNACK_REJECT)
        elif isinstance(
            pdu, ScsiCommand | TaskManagementRequest | NopOut | TextRequest | LogoutRequest
        ):
            self._command(pdu, header)
        else:
            self.reject_header(header, RejectReason.PROTOCOL_ERROR)

    def _bad_data_digest(self, pdu: Pdu, header: bytes) -> None:
        # RFC 7143 7.8: Reject, and the command ends as the SCSI layer is told in 11.4.7.2
        self.reject_header(header, RejectReason.DATA_DIGEST_ERROR)
        if isinstance(pdu, DataOut):
            task = self.tasks.get(pdu.initiator_task_tag)
            if task is not None and self.retained is not None:
                task.data_out(pdu, damaged=True)
            elif task is not None:
                task.fail(PROTOCOL_SERVICE_CRC_ERROR)

    def _data_out(self, pdu: DataOut) -> None:
        task = self.tasks.get(pdu.initiator_task_tag)
        if task is not None:
            task.data_out(pdu)
        elif pdu.initiator_task_tag not in self._ended_tags:
            self.reject(pdu, RejectReason.INVALID_PDU_FIELD)

    def _command(
        self,
        pdu: ScsiCommand | TaskManagementRequest | NopOut | TextRequest | LogoutRequest,
        header: bytes,
    ) -> None:
        """Put a numbered PDU in its place in the order of the session (RFC 7143 4.2.2.1)."""
        if pdu.immediate:
            self._deliver(pdu, header)
            return
        number = pdu.cmd_sn
        # "The target MUST silently ignore any non-immediate command outside of this range."
        if serial_lt(number, self.exp_cmd_sn) or not serial_le(number, self.max_cmd_sn):
            return
        if number in self._early:
            return
        if number != self.exp_cmd_sn:
            self._early[number] = pdu
            if isinstance(pdu, ScsiCommand):
                self._new_task(pdu, header)
            return
        self.exp_cmd_sn = serial_add(number, 1)
        self._deliver(pdu, header)
        self._deliver_early()

    def _deliver_early(self) -> None:
        while not self.ended and (pdu := self._early.pop(self.exp_cmd_sn, None)) is not None:
            self.exp_cmd_sn = serial_add(self.exp_cmd_sn, 1)
            if isinstance(pdu, ScsiCommand):
                task = self.tasks.get(pdu.initiator_task_tag)
                if task is not None:
                    task.start()
            else:
                self._deliver(pdu, pdu.encode()[:48])

    def plug(self, cmd_sn: int) -> bool:
        """Count a command as received that never came (RFC 7143 11.6.1 b); False if it has come."""
        if serial_lt(cmd_sn, self.exp_cmd_sn) or not serial_le(cmd_sn, self.max_cmd_sn):
            return False
        if cmd_sn == self.exp_cmd_sn:
            self.exp_cmd_sn = serial_add(cmd_sn, 1)
            self._deliver_early()
        elif cmd_sn not in self._early:
            self._early[cmd_sn] = NopOut(immediate=True)
        return True

    def _deliver(self, pdu: Pdu, header: bytes) -> None:
        if isinstance(pdu, ScsiCommand):
            if self.target is None:
                self.reject_header(header, RejectReason.PROTOCOL_ERROR)
                return
            task = self._new_task(pdu, header)
            if task is not None:
                task.start()
        elif isinstance(pdu, NopOut):
            self._nop_out(pdu)
        elif isinstance(pdu, TaskManagementRequest):
            self.server.count_function(pdu.function, self.target)
            if self.target is None:
                self.reject_header(header, RejectReason.PROTOCOL_ERROR)
            elif self.faults.ignore_task_management:
                self.faults.ignore_task_management -= 1
            else:
                management.carry_out(self, self.target, pdu)
        elif isinstance(pdu, TextRequest):
            self._text.receive(pdu, header)
        elif isinstance(pdu, LogoutRequest) and not self.faults.ignore_logout:
            self._logout(pdu)

    def _new_task(self, pdu: ScsiCommand, header: bytes) -> Task | None:
        tag = pdu.initiator_task_tag
        if tag in self.tasks:
            self.reject_header(header, RejectReason.TASK_IN_PROGRESS)
            return None
        self.server.count_command(pdu.cdb[0], self.target)
        try:
            lun = decode_lun(pdu.lun)
        except ProtocolError:
            lun = pdu.lun
        task = Task(self, pdu, lun if isinstance(lun, int) else None)
        task.command_header = bytes(header)
        self.tasks[tag] = task
        self._ended_tags.pop(tag, None)
        return task

    def _nop_out(self, pdu: NopOut) -> None:
        if pdu.initiator_task_tag == RESERVED_TAG:
            self.pings.pop(pdu.target_transfer_tag, None)
            return
        if self.faults.ignore_nop_out:
            return
        room = self.parameters.initiator_max_recv_data_segment_length
        self.send(
            NopIn(
                lun=pdu.lun,
                initiator_task_tag=pdu.initiator_task_tag,
                data=bytes(pdu.data[:room]),
            )
        )

    def _logout(self, pdu: LogoutRequest) -> None:
        response = LogoutResponse(initiator_task_tag=pdu.initiator_task_tag)
        response.time2wait = self.parameters.default_time2wait
        response.time2retain = self.parameters.default_time2retain
        if pdu.reason == 1 and pdu.cid != self.cid:
            response.response = 1  # CID not found
        elif pdu.reason == 2:
            response.response = 2  # recovery of a connection is not supported at level 0
        self.send(response)
        if response.response == 0:
            self.server.count("logouts", self.target)
            self.connection.close_gently()
            self.end()
