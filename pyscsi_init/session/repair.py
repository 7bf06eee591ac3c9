# SPDX-License-Identifier: Apache-2.0
"""Error recovery level 1: what is missing on a connection is asked for again (RFC 7143 7.1.4.1,
7.1.4.2, 7.8, 7.9).

Theory of operation. ``receive`` stands before the handlers of receive.py. A PDU whose data digest
is wrong is discarded, and what it was is asked for: data by a Data/R2T SNACK, a numbered response
by a Status SNACK. A status that came too early, or whose data has a hole, is held. Held statuses
are delivered strictly in the order of StatSN, each to its ordinary handler, so ExpStatSN never
acknowledges a status that is missing, nor one whose data is (7.9), and a task management response
never overtakes the responses before it.

What is asked for and does not come is asked for again by ``scan``, a few times; then the connection
is given up. A header digest error always ends the connection: the next PDU cannot be located.

INVARIANT: while ``busy``, the fast path is off; else nothing here knows more than the plain path.
(tests/properties/test_repair_properties.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from ..errors import ProtocolError
from ..pdu import Frame, InitiatorOpcode, SnackType, TargetOpcode
from ..serial import serial_add, serial_lt, serial_sub
from .deadlines import arm_scan
from .receive import HANDLERS
from .repair_data import (
    conclude,
    data_in_bad,
    data_in_received,
    is_complete,
    r2t_received,
    snack_rejected,
)
from .retry import plug, scan
from .snack import runs, snack
from .task import ScsiTask
from .transfer import Transfer

if TYPE_CHECKING:
    from .machine import SessionMachine

MAX_STATUS_GAP = 4096
"""Numbered responses that may be missing or held at once; a window of commands is far smaller. A
larger difference is a failed connection (RFC 7143 4.2.2.2)."""

MAX_HELD_BYTES = 1 << 24
"""Data segments of held responses: sense, text, ping data."""

MAX_ASKED_AGAIN = 5
"""How often one status is asked for."""

_TAG = slice(16, 20)
_STAT_SN = slice(24, 28)
_SNACK = InitiatorOpcode.SNACK_REQUEST
_RESERVED = b"\xff\xff\xff\xff"


@dataclass(slots=True)
class Held:
    """A numbered response that waits for its turn, or for the data of its task."""

    opcode: int
    header: bytes
    data: bytes

    @property
    def initiator_task_tag(self) -> int:
        return int.from_bytes(self.header[_TAG], "big")


@dataclass(slots=True)
class Asked:
    """A StatSN that was asked for, by itself or as the DataSN of the Data-In PDU that has it."""

    when: float
    times: int = 1


class Repair:
    """What one connection is missing."""

    def __init__(self, session: SessionMachine, connection: ConnectionMachine) -> None:
        self.session = session
        self.connection = connection
        self.held: dict[int, Held] = {}
        self.asked: dict[int, Asked] = {}
        self.transfers: dict[int, Transfer] = {}
        self.gap: tuple[int, float] | None = None
        """ExpCmdSN behind our CmdSN, and since when it stands there; see retry.py."""
        self.probe: int | None = None
        """The tag of the ping that asks whether it still does."""
        self.was_busy = False

    @property
    def busy(self) -> bool:
        """Something is missing, or held: every PDU has to be looked at closely."""
        return bool(
            self.held or self.asked or not all(each.idle for each in self.transfers.values())
        )

    # -- bookkeeping -----------------------------------------------------------------------------

    def transfer(self, task: ScsiTask) -> Transfer:
        """The irregular part of a task's transfer, made where there is none."""
        transfer = self.transfers.get(task.initiator_task_tag)
        if transfer is None:
            transfer = self.transfers[task.initiator_task_tag] = Transfer(task)
        return transfer

    def review(self) -> None:
        """Forget what is whole again, and let the fast path go or stop accordingly."""
        if self.transfers:
            in_flight = self.session.tasks.in_flight
            for tag, transfer in list(self.transfers.items()):
                if in_flight.get(tag) is not transfer.task:
                    del self.transfers[tag]
        expected = self.connection.exp_stat_sn
        for stat_sn in [each for each in self.asked if serial_lt(each, expected)]:
            del self.asked[stat_sn]
        for stat_sn in [each for each in self.held if serial_lt(each, expected)]:
            del self.held[stat_sn]
        busy = self.busy
        if busy != self.was_busy:
            self.was_busy = busy
            self.session.fast.review()

    @property
    def next_stat_sn(self) -> int:
        """The StatSN after the last one that was seen, missing ones included."""
        expected = self.connection.exp_stat_sn
        seen = [serial_sub(each, expected) for each in (*self.held, *self.asked)]
        return serial_add(expected, max(seen, default=-1) + 1)

    # -- numbered responses ----------------------------------------------------------------------

    def ask_status(self, stat_sns: list[int], now: float) -> None:
        """Status SNACK for these, in ascending order."""
        for first, count in runs(stat_sns):
            snack(self.connection, SnackType.STATUS, beg_run=first, run_length=count)
        for stat_sn in stat_sns:
            known = self.asked.get(stat_sn)
            self.asked[stat_sn] = Asked(now, known.times + 1 if known is not None else 1)
            if self.asked[stat_sn].times > MAX_ASKED_AGAIN:
                raise ProtocolError(
                    f"the target does not send status {stat_sn} again (RFC 7143 11.16)"
                )
        arm_scan(self.session, now)

    def expect_status(self, stat_sn: int, now: float) -> None:
        """This one comes with a Data-In PDU that was asked for."""
        if stat_sn not in self.held and not serial_lt(stat_sn, self.connection.exp_stat_sn):
            self.asked.setdefault(stat_sn, Asked(now))

    def status_before(self, stat_sn: int, now: float) -> None:
        """A PDU says that this StatSN comes next, or is here: ask for all that are missing before
        it.

        Raises:
            ProtocolError: more are missing than can be (RFC 7143 4.2.2.2).
        """
        expected = self.connection.exp_stat_sn
        gap = serial_sub(stat_sn, expected)
        if gap <= 0 and gap != -(2**31):
            return
        if not 0 < gap <= MAX_STATUS_GAP:
            raise ProtocolError(f"StatSN {stat_sn} where {expected} was expected: status lost")
        numbers = [serial_add(expected, index) for index in range(gap)]
        self.ask_status(
            [each for each in numbers if each not in self.held and each not in self.asked], now
        )

    def status_received(self, opcode: int, header: bytes, data: bytes, now: float) -> None:
        """A response with a StatSN of its own: hold it, and deliver what may be delivered."""
        stat_sn = int.from_bytes(header[_STAT_SN], "big")
        if serial_lt(stat_sn, self.connection.exp_stat_sn):
            return  # a duplicate of one that was delivered
        self.status_before(stat_sn, now)
        if opcode == TargetOpcode.REJECT and data[:1] and data[0] & 0x3F == _SNACK:
            # Now, because the status that comes before it may be waiting for what is refused.
            snack_rejected(self, data)
        if stat_sn not in self.held or opcode == TargetOpcode.SCSI_RESPONSE:
            self.held[stat_sn] = Held(opcode, header, data)
            if sum(len(each.data) for each in self.held.values()) > MAX_HELD_BYTES:
                raise ProtocolError("too many responses wait for one that is missing")
        self.deliver(now)

    def deliver(self, now: float) -> None:
        """Hand on what is held, in order, up to the first that is missing or not whole."""
        session, connection = self.session, self.connection
        while session.connection is connection:
            stat_sn = connection.exp_stat_sn
            held = self.held.get(stat_sn)
            if held is None or not self._whole(held, now):
                break
            del self.held[stat_sn]
            self.asked.pop(stat_sn, None)
            conclude(self, held.opcode, held.header, held.data, now)
        if session.connection is connection:
            self.review()

    def _whole(self, held: Held, now: float) -> bool:
        if held.opcode not in (TargetOpcode.SCSI_RESPONSE, TargetOpcode.DATA_IN):
            return True
        task = self.session.tasks.in_flight.get(held.initiator_task_tag)
        return task is None or is_complete(self, task, held.opcode, held.header, now)

    def scan(self, now: float) -> None:
        """Ask again for what is overdue, see retry.py."""
        scan(self, now)

    def plug(self, cmd_sn: int) -> None:
        """Send what has this CmdSN once more, see retry.py."""
        plug(self.session, self.connection, cmd_sn)

    def bad_response(self, stat_sn: int, now: float) -> None:
        """A numbered response was discarded, header and all (RFC 7143 7.8): it was the next one,
        unless its header makes it one of those that were asked for before, or that are here."""
        if stat_sn in self.held or serial_lt(stat_sn, self.connection.exp_stat_sn):
            return
        self.ask_status([stat_sn if stat_sn in self.asked else self.next_stat_sn], now)


def receive_and_repair(
    session: SessionMachine, connection: ConnectionMachine, frame: Frame, now: float
) -> None:
    """Handle one PDU of full feature phase at error recovery level 1 or 2.

    Raises:
        ProtocolError: RFC 7143 forbids it here, or what is missing does not come.
    """
    repair = session.repair
    if repair is None or repair.connection is not connection:
        raise ProtocolError("no error recovery on this connection")
    opcode, header = frame.opcode, frame.header
    if opcode == TargetOpcode.DATA_IN:
        if frame.data_digest_ok:
            data_in_received(repair, frame, now)
        else:
            data_in_bad(repair, frame, now)
    elif opcode == TargetOpcode.READY_TO_TRANSFER:
        r2t_received(repair, frame, now)
    elif not frame.data_digest_ok:
        repair.bad_response(int.from_bytes(header[_STAT_SN], "big"), now)
    elif opcode == TargetOpcode.NOP_IN and header[_TAG] == _RESERVED:
        # RFC 7143 7.1.4.2: it carries the next StatSN, without using it up.
        repair.status_before(int.from_bytes(header[_STAT_SN], "big"), now)
        HANDLERS[opcode](session, connection, frame, now)
    elif opcode == TargetOpcode.LOGOUT_RESPONSE:
        # It ends the connection, whatever is missing before it.
        connection.exp_stat_sn = int.from_bytes(header[_STAT_SN], "big")
        HANDLERS[opcode](session, connection, frame, now)
    elif opcode in HANDLERS:
        repair.status_received(opcode, bytes(header), bytes(frame.data), now)
    else:
        raise ProtocolError(f"opcode {opcode:02x}h is none of a target's")
    if session.connection is connection and (
        repair.was_busy or repair.held or repair.asked or repair.transfers
    ):
        repair.review()
