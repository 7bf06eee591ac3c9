# SPDX-License-Identifier: Apache-2.0
"""The common case of the data path in as few steps as Python allows.

Most of what a session does is this: a command that may leave at once, and its status GOOD with all
of its data. The plain path does that in a dozen small functions, each of which has one thing to
say; here the same is written out in two loops, which touch the numbers of session, connection and
task alike. Whatever is not the common case is left untouched for the plain path: ``start`` returns
False, ``receive`` stops before the PDU.

INVARIANT: what leaves, what completes and every number are the same as without this file
(tests/properties/test_fast_path_properties.py), but for one: the deadline of a command is set by
the next look at the deadlines, at most a second late, so that no clock is read for each command.

A long Data-In is received straight into the buffer of its command (``receive_buffers``): its bytes
are moved once, by the kernel.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from ..pdu.fast import F_BIT, R_BIT, S_BIT, SCSI_COMMAND, W_BIT
from .data_out import send_command
from .task import NO_DEADLINE, ScsiTask, TaskState

if TYPE_CHECKING:
    from .machine import SessionMachine

DIRECT_BYTES = 16384
"""From how many missing bytes on the rest of a Data-In is received where it belongs: below, the
copy costs less than what it takes to arrange that."""

PEEK_BYTES = 4096
"""While long Data-In PDUs come, so much is read beyond the end of one: the next header, and little
of its data, which would have to be moved again."""

_MASK = 0xFFFFFFFF
_BACKWARD = 0x80000000
_LAST_TAG = 0xFFFFFFFE
_READ = F_BIT | R_BIT | 0x01
_WRITE = F_BIT | W_BIT | 0x01
"""With the SIMPLE task attribute (RFC 7143 11.3.1)."""
_LAST_DATA_IN = F_BIT | S_BIT

_STATUS = Struct(">BBBBI8xI4xIIIII4x")
"""What Data-In and SCSI Response have in common: byte_0, flags, response, status, lengths,
initiator_task_tag, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn (or ExpDataSN), buffer_offset."""
assert _STATUS.size == 48  # noqa: S101  (a header)

_unpack = _STATUS.unpack_from
_pack = SCSI_COMMAND.pack
_QUEUED, _SENT, _DONE = TaskState.QUEUED, TaskState.SENT, TaskState.DONE


class FastPath:
    """The two loops for one session; ``connection`` is None while only the plain path may go."""

    __slots__ = (
        "_direct_header",
        "_direct_task",
        "_in_flight",
        "_large",
        "_queue_depth",
        "_session",
        "_tasks",
        "connection",
        "direct",
        "enabled",
        "immediate_bytes",
    )

    def __init__(self, session: SessionMachine) -> None:
        self._session = session
        self._tasks = session.tasks
        self._queue_depth = session.settings.queue_depth
        self._in_flight = session.tasks.in_flight
        self.connection: ConnectionMachine | None = None
        self.immediate_bytes = 0
        self.enabled = True
        """False keeps everything on the plain path: for the test that compares the two."""
        self.direct: memoryview | None = None
        """What is missing of a Data-In that is received into its command's buffer."""
        self._direct_task: ScsiTask | None = None
        self._direct_header: tuple[int, ...] = ()
        self._large = False

    def review(self) -> None:
        """Something rare happened: see whether the common case may still be assumed."""
        session = self._session
        connection = session.connection
        self.connection = None
        if (
            connection is None
            or not connection.full_feature
            or connection.header_digest
            or connection.data_digest
            or session.held
            or session.closing
            or session.discovery
            or session.refusing is not None
            or (session.repair is not None and session.repair.was_busy)
            or self._tasks.bidirectional
            or not self.enabled
        ):
            return
        parameters = session.parameters
        self.immediate_bytes = 0
        if parameters.immediate_data:
            self.immediate_bytes = min(
                parameters.first_burst_length, parameters.target_max_recv_data_segment_length
            )
        self.connection = connection

    def drop(self) -> None:
        """The connection is gone, with the rest of whatever was under way on it."""
        self.connection = self.direct = self._direct_task = None
        self._large = False

    # -- commands --------------------------------------------------------------------------------

    def start(self, task: ScsiTask, queued: bool = False) -> bool:
        """Send the command of a new task, or queue it where the window is closed; False where it
        was not touched. The task's transfer must be as ``reset_transfer`` leaves it."""
        connection = self.connection
        tasks = self._tasks
        session = self._session
        if connection is None or tasks.control or session.scan_at is None:
            return False
        window = session.window
        cmd_sn = window.cmd_sn
        in_flight = self._in_flight
        if (
            (window.max_cmd_sn - cmd_sn) & _BACKWARD
            or (tasks.waiting and not queued)
            or len(in_flight) >= self._queue_depth
        ):
            if queued or task.control or not in_flight:
                return False
            # An answer will come, and open the window.
            task.state = _QUEUED
            tasks.waiting.append(task)
            return True
        tag = tasks.last_tag + 1
        if tag > _LAST_TAG or tag in in_flight or tag in tasks.requests:
            tag = tasks.new_tag()
        tasks.last_tag = task.initiator_task_tag = tag
        window.cmd_sn = (cmd_sn + 1) & _MASK
        task.cmd_sn = cmd_sn
        task.state = _SENT
        task.attempts += 1
        task.deadline = NO_DEADLINE
        in_flight[tag] = task
        cdb = task.cdb
        data_in = task.data_in
        if data_in is not None and len(cdb) <= 16:
            connection.outbox.append(
                _pack(
                    0x01,
                    _READ,
                    0,
                    0,
                    task.lun,
                    tag,
                    len(data_in),
                    cmd_sn,
                    connection.exp_stat_sn,
                    cdb,
                )
            )
        elif (
            (data_out := task.data_out) is not None
            and (length := len(data_out)) <= self.immediate_bytes
            and not length & 3
            and length
            and len(cdb) <= 16
        ):
            outbox = connection.outbox
            outbox.append(
                _pack(
                    0x01,
                    _WRITE,
                    0,
                    length,
                    task.lun,
                    tag,
                    length,
                    cmd_sn,
                    connection.exp_stat_sn,
                    cdb,
                )
            )
            outbox.append(data_out)
            task.queue_mark = connection.buffers_left + len(outbox)
        else:
            send_command(connection, session.parameters, task)
        return True

    def drain(self) -> None:
        """Send what waits, as far as the window is open."""
        waiting = self._tasks.waiting
        while waiting and self.start(waiting[0], queued=True):
            waiting.popleft()

    # -- answers ---------------------------------------------------------------------------------

    def receive(self) -> None:
        """Take PDUs from the framer as long as each is the common case."""
        connection = self.connection
        if connection is None or self.direct is not None:
            return
        framer = connection.framer
        buffer, view = framer.memory, framer.view
        position, end = framer.start, framer.end
        window = self._session.window
        in_flight = self._in_flight
        longest = framer.max_data_segment_length
        while end - position >= 48:
            (
                byte_0,
                flags,
                response,
                status,
                length,
                tag,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                offset,
            ) = _unpack(buffer, position)
            task = in_flight.get(tag)
            if task is None or status or response or length > longest or task.state is not _SENT:
                break
            data_in = task.data_in
            if byte_0 == 0x25:
                if (
                    data_in is None
                    or flags & 0x7E
                    or data_sn != task.data_sn
                    or offset != task.received
                    or not length
                    or length & 3
                ):
                    break
                data = position + 48
                after = data + length
                stop = offset + length
                last = flags == _LAST_DATA_IN
                if last:
                    if stop != len(data_in) or stat_sn != connection.exp_stat_sn:
                        break
                elif flags & S_BIT or stop > len(data_in):
                    break
                if after > end:
                    if after - end >= DIRECT_BYTES:
                        missing = data_in[offset:stop]
                        here = end - data
                        missing[:here] = view[data:end]
                        self.direct = missing[here:]
                        self._direct_task = task
                        self._direct_header = (
                            length,
                            last,
                            stat_sn,
                            exp_cmd_sn,
                            max_cmd_sn,
                        )
                        self._large = True
                        position = end
                    break
                if exp_cmd_sn != window.exp_cmd_sn or max_cmd_sn != window.max_cmd_sn:
                    if not self._fits(exp_cmd_sn, max_cmd_sn):
                        break
                    window.exp_cmd_sn = exp_cmd_sn
                    window.max_cmd_sn = max_cmd_sn
                data_in[offset:stop] = view[data:after]
                position = after
                task.received = stop
                if not last:
                    task.data_sn = data_sn + 1
                    continue
                self._large = False
            elif byte_0 == 0x21:
                if (
                    flags != F_BIT
                    or length
                    or stat_sn != connection.exp_stat_sn
                    or connection.buffers_left < task.queue_mark
                    or (
                        data_in is not None
                        and (task.received != len(data_in) or data_sn > task.data_sn)
                    )
                ):
                    break
                if exp_cmd_sn != window.exp_cmd_sn or max_cmd_sn != window.max_cmd_sn:
                    if not self._fits(exp_cmd_sn, max_cmd_sn):
                        break
                    window.exp_cmd_sn = exp_cmd_sn
                    window.max_cmd_sn = max_cmd_sn
                position += 48
            else:
                break
            connection.exp_stat_sn = (stat_sn + 1) & _MASK
            del in_flight[tag]
            task.status = 0
            task.state = _DONE
            task.completion(task)
            if self.connection is not connection:
                break
        framer.consumed(position)

    def _fits(self, exp_cmd_sn: int, max_cmd_sn: int) -> bool:
        """Both numbers move forward, none beyond what was sent: CommandWindow.update would take
        them as they are."""
        window = self._session.window
        return not (
            (exp_cmd_sn - window.exp_cmd_sn) & _BACKWARD
            or (window.cmd_sn - exp_cmd_sn) & _BACKWARD
            or (max_cmd_sn - window.max_cmd_sn) & _BACKWARD
            or (max_cmd_sn - exp_cmd_sn + 1) & _BACKWARD
        )

    # -- long Data-In ----------------------------------------------------------------------------

    def receive_buffers(self, connection: ConnectionMachine) -> tuple[memoryview, ...]:
        """Where the socket may put the next bytes, in this order."""
        framer = connection.framer
        if framer.start == framer.end:
            framer.start = framer.end = 0
            buffer = framer.view
        else:
            buffer = framer.receive_buffer()
        if self._large and len(buffer) > PEEK_BYTES:
            buffer = buffer[:PEEK_BYTES]
        direct = self.direct
        return (buffer,) if direct is None else (direct, buffer)

    def direct_received(self, count: int) -> tuple[int, ScsiTask | None]:
        """``count`` bytes came for ``receive_buffers``: how many of them belong to the framer, and
        the task whose Data-In is whole now (``direct_header`` tells its numbers)."""
        direct = self.direct
        if direct is None:
            return count, None
        if count < len(direct):
            self.direct = direct[count:]
            return 0, None
        task, self.direct, self._direct_task = self._direct_task, None, None
        return count - len(direct), task

    @property
    def direct_header(self) -> tuple[int, ...]:
        """Length, last (with status), StatSN, ExpCmdSN, MaxCmdSN of the Data-In that was received
        in place."""
        return self._direct_header
