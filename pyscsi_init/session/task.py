# SPDX-License-Identifier: Apache-2.0
"""Tasks: a SCSI command on its way, and what else waits for an answer by its Initiator Task Tag.

A task carries its own completion, like a block request: the session calls ``completion(task)``
once, with ``error`` None and a SCSI ``status``, or with ``error`` set and no status. A status
other than GOOD is a result here, not an error: what it means is for the device to say.

DataSN and R2TSN belong to the task. CmdSN and the tag are given to it by the session when it is
sent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from ..errors import IscsiError
from ..login import TextExchange
from ..pdu import TaskManagementFunction

NO_LUN = bytes(8)

NO_DEADLINE = 0.0
"""Of a command on its way whose deadline nobody has set yet; see deadlines.py."""


class Replay(enum.Enum):
    """What may be done with a command whose connection died before its status came.

    SAFE are the commands that only ask (INQUIRY, READ, VERIFY, GET LBA STATUS, PERSISTENT RESERVE
    IN, REPORT TARGET PORT GROUPS), those that leave the same blocks however often they are done
    (WRITE, WRITE AND VERIFY, WRITE SAME, UNMAP), SYNCHRONIZE CACHE, and of PERSISTENT RESERVE OUT
    RESERVE and RELEASE, which an initiator that lost its registration cannot repeat.

    NEVER are COMPARE AND WRITE (the second one compares with what the first one wrote), the other
    actions of PERSISTENT RESERVE OUT (a second REGISTER could bring back a node that was fenced
    in between), SET TARGET PORT GROUPS, and every command that is not ours.
    """

    SAFE = "send again: doing it twice is the same as doing it once"
    NEVER = "end with OutcomeUnknown"


class TaskState(enum.Enum):
    """Where a task is; the value is a sentence for a person."""

    NEW = "not submitted"
    QUEUED = "waiting for the command window"
    SENT = "sent, no status yet"
    ABORTING = "ABORT TASK sent"
    SUSPENDED = "its connection died, waiting to be sent again"
    DONE = "complete"


class ScsiTask:
    """One SCSI command.

    ``lun`` is the 8-byte LUN, ``data_in`` the writable buffer of exactly the expected length for a
    read, ``data_out`` the bytes of a write (kept unchanged until completion). ``modifies`` marks a
    command that changes the medium: while one of unknown outcome exists, nothing is replayed before
    a LOGICAL UNIT RESET. ``control`` lets the commands of the recovery itself pass while other I/O
    is held back. ``timeout`` is in seconds from the moment of sending.

    After completion: ``status``, ``sense``, ``received`` (bytes in data_in), ``residual_count``
    with ``residual_overflow`` or ``residual_underflow``, or ``error``.
    """

    __slots__ = (
        "attempts",
        "cdb",
        "cmd_sn",
        "completion",
        "context",
        "control",
        "data_in",
        "data_out",
        "data_sn",
        "deadline",
        "error",
        "initiator_task_tag",
        "lun",
        "modifies",
        "queue_mark",
        "r2t_sn",
        "received",
        "replay",
        "residual_count",
        "residual_overflow",
        "residual_underflow",
        "sense",
        "silences",
        "solicited",
        "state",
        "status",
        "timeout",
    )

    def __init__(
        self,
        lun: bytes,
        cdb: bytes,
        completion: Callable[[ScsiTask], None],
        *,
        data_in: memoryview | None = None,
        data_out: memoryview | None = None,
        replay: Replay = Replay.NEVER,
        modifies: bool = True,
        control: bool = False,
        timeout: float = 30.0,
        context: object = None,
    ) -> None:
        self.lun = lun
        self.cdb = cdb
        self.completion = completion
        self.data_in = data_in
        self.data_out = data_out
        self.replay = replay
        self.modifies = modifies
        self.control = control
        self.timeout = timeout
        self.context = context
        self.attempts = 0
        self.silences = 0
        self.state = TaskState.NEW
        self.initiator_task_tag = 0xFFFFFFFF
        self.cmd_sn = 0
        self.deadline = 0.0
        self.error: IscsiError | None = None
        self.status = -1
        self.sense = b""
        self.reset_transfer()

    def reset_transfer(self) -> None:
        """Forget what came so far: the command starts anew."""
        self.data_sn = 0
        self.r2t_sn = 0
        self.solicited = 0
        self.queue_mark = 0
        self.received = 0
        self.residual_count = 0
        self.residual_overflow = False
        self.residual_underflow = False

    @property
    def expected_data_transfer_length(self) -> int:
        """RFC 7143 11.3.4; of a command that transfers both ways, what is written."""
        if self.data_out is not None:
            return len(self.data_out)
        return len(self.data_in) if self.data_in is not None else 0

    @property
    def data_in_due(self) -> int:
        """How many bytes must have come, by the residual that the status has told."""
        length = self.expected_data_transfer_length
        return length - self.residual_count if self.residual_underflow else length

    def finish(self, error: IscsiError | None = None) -> None:
        """End the task; the session calls it, once."""
        self.state = TaskState.DONE
        self.error = error
        self.completion(self)

    def __repr__(self) -> str:
        return (
            f"<ScsiTask {self.cdb[0]:02x}h tag={self.initiator_task_tag:08x} "
            f"CmdSN={self.cmd_sn} {self.state.name}>"
        )


class ManagementTask:
    """A task management request and its response code (RFC 7143 11.6.1), or an error.

    ``additional`` is the Additional Response Information, three bytes as a number (RFC 7144 6.4.1),
    0 below iSCSIProtocolLevel 2.
    """

    __slots__ = (
        "additional",
        "cmd_sn",
        "completion",
        "deadline",
        "error",
        "function",
        "initiator_task_tag",
        "lun",
        "referenced",
        "response",
        "stopped",
        "timeout",
    )

    def __init__(
        self,
        function: TaskManagementFunction,
        lun: bytes,
        completion: Callable[[ManagementTask], None],
        *,
        referenced: ScsiTask | None = None,
        timeout: float = 15.0,
    ) -> None:
        self.function = function
        self.lun = lun
        self.completion = completion
        self.referenced = referenced
        self.timeout = timeout
        self.deadline = 0.0
        self.initiator_task_tag = 0xFFFFFFFF
        self.cmd_sn = 0
        self.response = -1
        self.additional = 0
        self.stopped: list[tuple[ScsiTask, int]] = []
        """See fast_abort.py."""
        self.error: IscsiError | None = None

    def finish(self, error: IscsiError | None = None) -> None:
        """End the task; the session calls it, once."""
        self.error = error
        self.completion(self)


class TextTask:
    """A text exchange in full feature phase: SendTargets, or a new MaxRecvDataSegmentLength."""

    __slots__ = (
        "completion",
        "deadline",
        "error",
        "exchange",
        "initiator_task_tag",
        "pairs",
        "request",
        "timeout",
    )

    def __init__(
        self,
        request: list[tuple[str, str]],
        completion: Callable[[TextTask], None],
        *,
        timeout: float = 30.0,
    ) -> None:
        self.request = request
        self.exchange: TextExchange | None = None
        self.completion = completion
        self.timeout = timeout
        self.deadline = 0.0
        self.initiator_task_tag = 0xFFFFFFFF
        self.pairs: list[tuple[str, str]] = []
        self.error: IscsiError | None = None

    def finish(self, error: IscsiError | None = None) -> None:
        """End the exchange; the session calls it, once."""
        self.error = error
        self.completion(self)
