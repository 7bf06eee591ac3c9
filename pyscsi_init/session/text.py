# SPDX-License-Identifier: Apache-2.0
"""Text exchanges in full feature phase, numbered as commands of the session (RFC 7143 11.10).

What is asked and how the parts of an answer are put together is login/text_exchange.py's; here the
requests get their CmdSN. They are immediate only where the window is closed at the start: a target
exists that counts immediate ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from ..login import TextExchange
from ..pdu import TextResponse
from .task import TextTask
from .window import CommandWindow

if TYPE_CHECKING:
    from .machine import SessionMachine


def start_text(
    connection: ConnectionMachine, window: CommandWindow, task: TextTask, max_data_length: int
) -> None:
    """Queue the first request of an exchange whose task has its tag."""
    task.exchange = TextExchange(
        task.request,
        initiator_task_tag=task.initiator_task_tag,
        max_data_segment_length=max_data_length,
        # RFC 7143 11.10: the I bit stays the same in all requests of one exchange.
        immediate=window.open_slots == 0,
    )
    _send(connection, window, task.exchange)


def text_received(
    connection: ConnectionMachine, window: CommandWindow, task: TextTask, response: TextResponse
) -> bool:
    """Take a part of the answer; True when it is complete.

    Raises:
        ProtocolError: the response breaks RFC 7143, or the answer is longer than any honest one.
    """
    exchange = task.exchange
    assert exchange is not None  # noqa: S101  (for mypy: start_text came before)
    exchange.receive(response)
    if exchange.finished:
        task.pairs = exchange.pairs
        return True
    _send(connection, window, exchange)
    return False


def take_declared(session: SessionMachine, connection: ConnectionMachine, task: TextTask) -> None:
    """An exchange is over: a MaxRecvDataSegmentLength that either side declared in it holds from
    now on (RFC 7143 13.12). What is missing of the reads under way can only be had cut anew
    (11.16.3)."""
    assert task.exchange is not None  # noqa: S101  (for mypy: start_text came before)
    theirs = task.exchange.declared_max_recv_data_segment_length
    if theirs is not None:
        session.parameters = replace(session.parameters, target_max_recv_data_segment_length=theirs)
        session.fast.review()
    for name, value in task.request:
        if name == "MaxRecvDataSegmentLength":
            length = int(value)
            connection.framer.max_data_segment_length = length
            session.parameters = replace(session.parameters, max_recv_data_segment_length=length)
            if session.repair is not None:
                for each in session.tasks.in_flight.values():
                    if each.data_in is not None:
                        session.repair.transfer(each).resegmented = True


def _send(connection: ConnectionMachine, window: CommandWindow, exchange: TextExchange) -> None:
    for request in exchange.requests():
        if request.immediate:
            request.cmd_sn = window.cmd_sn
        else:
            request.cmd_sn = window.take()
        connection.send(request)
