# SPDX-License-Identifier: Apache-2.0
"""Level 1 by time: what was asked for and did not come, and gaps in CmdSN.

RFC 7143 7.1.4.2, 7.2.1.

A command that the target does not count is sent again as it was: same tag, same CmdSN, same
attributes. That is allowed for nothing but to plug a gap, so a ping goes first, whose answer shows
the present ExpCmdSN. A number whose command has ended here meanwhile is plugged with a NOP-Out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from ..errors import ConnectionLost, ProtocolError
from ..pdu import RESERVED_TAG, NopOut
from ..serial import serial_sub
from .data_out import send_command
from .repair_data import ask_again, ask_data
from .tasks import Ping
from .transfer import Transfer

if TYPE_CHECKING:
    from .machine import SessionMachine
    from .repair import Repair

ASK_AGAIN_AFTER = 2.0
"""Seconds after which a SNACK that brought nothing is repeated."""

RETRY_AFTER = 1.0
"""Seconds that ExpCmdSN may stand behind a command before the target is asked about it."""

MAX_RETRIES = 8
"""How often one command is sent again on one connection to plug one gap."""


def scan(repair: Repair, now: float) -> None:
    """Ask again for what is overdue.

    Raises:
        ProtocolError: it was asked for often enough.
    """
    session, connection = repair.session, repair.connection
    repair.review()
    late = [each for each, asked in repair.asked.items() if now - asked.when >= ASK_AGAIN_AFTER]
    if late:
        expected = connection.exp_stat_sn
        repair.ask_status(sorted(late, key=lambda each: serial_sub(each, expected)), now)
    for transfer in list(repair.transfers.values()):
        numbers = sorted(
            each for each, when in transfer.asked.items() if now - when >= ASK_AGAIN_AFTER
        )
        if numbers and transfer.resegmented:
            ask_data(repair, transfer, numbers[0] + 1, now)
        else:
            ask_again(repair, transfer, numbers, now)
        if _waits_in_vain(transfer, now):
            session.lose(
                ConnectionLost(
                    f"nothing follows the reassignment of {transfer.task!r} (RFC 7143 7.2.2)"
                )
            )
            return
    _look_for_gap(session, repair, connection, now)


def _waits_in_vain(transfer: Transfer, now: float) -> bool:
    if transfer.proof is None:
        return False
    data_sn, r2t_sn, until = transfer.proof
    task = transfer.task
    if (task.data_sn, task.r2t_sn) != (data_sn, r2t_sn) or not transfer.reassigned:
        transfer.proof = None
        return False
    return now >= until


def _look_for_gap(
    session: SessionMachine, repair: Repair, connection: ConnectionMachine, now: float
) -> None:
    window = session.window
    head = window.exp_cmd_sn
    if head == window.cmd_sn or not connection.full_feature:
        repair.gap = repair.probe = None
    elif repair.gap is None or repair.gap[0] != head:
        repair.gap = (head, now)
        repair.probe = None
    elif now - repair.gap[1] >= RETRY_AFTER:
        if repair.probe is None:
            # Also where no pings are wanted: a slow command is not to be taken for a lost one.
            session.ping(now)
            repair.probe = session.tasks.last_tag
        elif not isinstance(session.tasks.requests.get(repair.probe), Ping):
            repair.gap = (head, now)
            repair.probe = None
            plug(session, connection, head)


def plug(session: SessionMachine, connection: ConnectionMachine, cmd_sn: int) -> None:
    """Send what has this CmdSN once more: the command, or a NOP-Out where there is none any more.

    Raises:
        ProtocolError: it was sent too often; the target does not take it.
    """
    repair = session.repair
    for task in session.tasks.in_flight.values():
        if task.cmd_sn == cmd_sn:
            if repair is not None:
                transfer = repair.transfer(task)
                transfer.retries += 1
                if transfer.retries > MAX_RETRIES:
                    raise ProtocolError(f"the target does not count {task!r} (RFC 7143 7.2.1)")
            task.reset_transfer()
            send_command(connection, session.parameters, task)
            return
    ping = Ping()
    ping.initiator_task_tag = session.tasks.new_tag()
    session.tasks.requests[ping.initiator_task_tag] = ping
    connection.send(
        NopOut(
            initiator_task_tag=ping.initiator_task_tag,
            target_transfer_tag=RESERVED_TAG,
            cmd_sn=cmd_sn,
        )
    )
