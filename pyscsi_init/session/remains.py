# SPDX-License-Identifier: Apache-2.0
"""What a lost connection leaves to look at: the last PDUs received, and what had no answer.

Nothing is kept for this while all is well, so it costs nothing then. The framer's memory still
holds what the last reads of the socket brought, from the beginning of a PDU on; that is walked once
more, header by header. What was sent is known by the commands that were in flight: those that are
to be sent again still have the tag and the CmdSN of their last attempt.

So the list is as long as the last burst was: under load many PDUs, one after another only the last.
The rest of a long Data-In is not in that memory; its header is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from struct import Struct

from ..connection import ConnectionMachine
from ..pdu import TargetOpcode
from ..serial import serial_lt
from .machine import SessionMachine
from .task import ScsiTask

MAX_RECEIVED = 64
MAX_UNANSWERED = 32

_HEADER = Struct(">BBBBI8xIIIII")
_BHS_LENGTH = 48
_NAMES = {int(opcode): opcode.name.replace("_", " ").title() for opcode in TargetOpcode}


def describe_remains(session: SessionMachine, connection: ConnectionMachine) -> list[str]:
    """One line each, in order; the numbers of session and connection come first.

    Asked for as soon as the connection is lost: the next login forgets most of it.
    """
    window = session.window
    numbers = (
        f"ExpStatSN={connection.exp_stat_sn} CmdSN={window.cmd_sn} "
        f"ExpCmdSN={window.exp_cmd_sn} MaxCmdSN={window.max_cmd_sn}"
    )
    lines = [numbers]
    lines += received_pdus(connection)
    lines += unanswered(session.tasks.waiting)
    return lines


def received_pdus(connection: ConnectionMachine) -> list[str]:
    """The last PDUs whose headers are still in the framer's memory."""
    framer = connection.framer
    if framer.start:
        found = _headers(connection, framer.start)
    else:
        found = iter(_before_the_marks_went_back(connection))
    headers = deque(found, maxlen=MAX_RECEIVED)
    lines = [_described(header) for header in headers]
    if framer.pending:
        beginning = bytes(framer.view[framer.start : framer.start + _BHS_LENGTH])
        lines.append(f"received, not taken: {framer.pending} bytes, {beginning.hex(' ', 4)}")
    elif headers:
        lines[-1] += f" [{headers[-1].hex(' ', 4)}]"
    return lines


def _headers(connection: ConnectionMachine, end: int) -> Iterator[bytes]:
    """The headers from the front of the memory on, up to ``end``."""
    view = connection.framer.view
    position = 0
    while position + _BHS_LENGTH <= end:
        header = bytes(view[position : position + _BHS_LENGTH])
        yield header
        length = int.from_bytes(header[5:8], "big")
        position += _BHS_LENGTH + header[4] * 4 + length + (-length & 3)
        position += 4 * (connection.header_digest + (connection.data_digest and length > 0))


def _before_the_marks_went_back(connection: ConnectionMachine) -> list[bytes]:
    """The last burst, where all of it was taken and the framer began anew at the front.

    Where it ended is not known, and older bytes lie behind it. It ended with the last status that
    was counted; or it had no status at all, then before the first PDU that has one. Nor does
    ExpCmdSN ever go back.
    """
    framer = connection.framer
    if framer.pending:
        return []
    found: list[bytes] = []
    without_status: int | None = None
    for header in _headers(connection, framer.capacity):
        length = int.from_bytes(header[5:8], "big")
        if header[0] & 0x3F not in _NAMES or length > framer.max_data_segment_length:
            break
        if found and serial_lt(_number(header, 28), _number(found[-1], 28)):
            break
        if _has_status(header):
            if without_status is None:
                without_status = len(found)
            if _number(header, 24) == (connection.exp_stat_sn - 1) & 0xFFFFFFFF:
                return [*found, header]
        found.append(header)
    return found[:without_status]


def _number(header: bytes, offset: int) -> int:
    """StatSN at 24, ExpCmdSN at 28, in all that a target sends."""
    return int.from_bytes(header[offset : offset + 4], "big")


def _has_status(header: bytes) -> bool:
    """Whether StatSN was counted (RFC 7143 11.7.3, 11.8, 11.19)."""
    opcode = header[0] & 0x3F
    if opcode == TargetOpcode.DATA_IN:
        return bool(header[1] & 0x01)
    if opcode == TargetOpcode.NOP_IN:
        return header[16:20] != b"\xff\xff\xff\xff"
    return opcode != TargetOpcode.READY_TO_TRANSFER


def _described(header: bytes) -> str:
    byte_0, flags, byte_2, byte_3, lengths, tag, word_20, stat_sn, exp_cmd_sn, max_cmd_sn = (
        _HEADER.unpack_from(header)
    )
    opcode = byte_0 & 0x3F
    name = _NAMES.get(opcode, f"opcode {opcode:02x}h")
    return (
        f"received: {name} flags={flags:02x} bytes 2-3={byte_2:02x}{byte_3:02x} "
        f"data={lengths & 0xFFFFFF} ITT={tag:08x} TTT/SNACK={word_20:08x} StatSN={stat_sn} "
        f"ExpCmdSN={exp_cmd_sn} MaxCmdSN={max_cmd_sn} DataSN={_number(header, 36)}"
    )


def unanswered(waiting: deque[ScsiTask]) -> list[str]:
    """The commands that were under way and are to be sent again."""
    sent = [task for task in waiting if task.attempts]
    lines = [
        f"sent, no answer: {task.cdb[:16].hex()} LUN={task.lun.hex()} "
        f"ITT={task.initiator_task_tag:08x} CmdSN={task.cmd_sn} "
        f"bytes={task.expected_data_transfer_length} attempt={task.attempts}"
        for task in sent[:MAX_UNANSWERED]
    ]
    if len(sent) > MAX_UNANSWERED:
        lines.append(f"sent, no answer: {len(sent) - MAX_UNANSWERED} more")
    return lines
